//! The applications that are registered with the pretend Bitbucket.
//!
//! Owns: their ids, secrets, callbacks and scopes.
//! Must not know: who granted them what.

use super::{TokenRefusal, Unknown, World};

/// An application that is registered with the pretend Bitbucket.
#[derive(Clone, Debug)]
pub struct Client {
    /// Sent as `client_id`.
    pub id: String,
    /// Its secret.
    pub secret: String,
    /// The one callback URL; empty when none was registered.
    pub callback: String,
    /// Shown on the consent page.
    pub name: String,
    /// What every grant to it covers, for example `account` and `email`.
    pub scopes: Vec<String>,
}

impl Client {
    /// With the scopes `account` and `email`, named like its id.
    pub fn new(id: &str, secret: &str, callback: &str) -> Client {
        Client {
            id: id.to_owned(),
            secret: secret.to_owned(),
            callback: callback.to_owned(),
            name: id.to_owned(),
            scopes: vec!["account".to_owned(), "email".to_owned()],
        }
    }
}

impl World {
    /// Registers an application; one with the same id is replaced and its grants stand.
    pub fn register_client(&mut self, client: Client) {
        self.clients.retain(|known| known.id != client.id);
        self.clients.push(client);
    }

    /// Takes an application away, with everything that was granted to it.
    ///
    /// # Errors
    /// [`Unknown::Client`].
    pub fn remove_client(&mut self, id: &str) -> Result<(), Unknown> {
        self.client(id)?;
        self.clients.retain(|client| client.id != id);
        self.grants.retain(|grant| grant.client != id);
        Ok(())
    }

    /// Every application.
    pub fn clients(&self) -> &[Client] {
        &self.clients
    }

    /// The application with this id.
    ///
    /// # Errors
    /// [`Unknown::Client`].
    pub fn client(&self, id: &str) -> Result<&Client, Unknown> {
        self.clients.iter().find(|client| client.id == id).ok_or_else(|| Unknown::Client(id.to_owned()))
    }

    /// The same, to change any of its fields.
    ///
    /// # Errors
    /// [`Unknown::Client`].
    pub fn client_mut(&mut self, id: &str) -> Result<&mut Client, Unknown> {
        self.clients.iter_mut().find(|client| client.id == id).ok_or_else(|| Unknown::Client(id.to_owned()))
    }

    /// Registers another callback URL for an application.
    ///
    /// # Errors
    /// [`Unknown::Client`].
    pub fn set_callback(&mut self, client: &str, callback: &str) -> Result<(), Unknown> {
        self.client_mut(client)?.callback = callback.to_owned();
        Ok(())
    }

    /// The application that these credentials belong to.
    pub(crate) fn authenticate(&self, id: &str, secret: &str) -> Result<Client, TokenRefusal> {
        let client = self.client(id).map_err(|_| TokenRefusal::ClientAuth)?;
        if client.secret != secret {
            return Err(TokenRefusal::ClientAuth);
        }
        Ok(client.clone())
    }
}
