//! The people of the pretend Bitbucket.
//!
//! Owns: accounts and their e-mail addresses.
//! Must not know: teams beyond the personal one that comes with an account.

use serde::{Deserialize, Serialize};

use super::{Permission, Unknown, Workspace, World};
use crate::mint::uuid_of;

/// An account. The fields are what Bitbucket would send; change them with [`World::user_mut`].
#[derive(Clone, Debug)]
pub struct User {
    /// How tests and the control API call this account. Never sent by the API.
    pub id: String,
    /// `{…}` with the braces: the real identity.
    pub uuid: String,
    /// Atlassian's id; some odd accounts have none.
    pub account_id: Option<String>,
    /// Chosen by the user, not unique. At first the id; two accounts may be given the same one.
    pub nickname: Option<String>,
    /// Undocumented, still sent for one's own account.
    pub username: Option<String>,
    /// Chosen by the user, not unique.
    pub display_name: String,
    /// `active`, `inactive`, `closed` …
    pub account_status: String,
    /// `user` for a person; `app_user` for a machine.
    pub kind: String,
    /// In the order the API lists them.
    pub emails: Vec<Email>,
}

/// An e-mail address of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Email {
    /// The address.
    pub address: String,
    /// The owner proved it is theirs.
    pub confirmed: bool,
    /// The one that Bitbucket writes to. At most one, possibly none.
    pub primary: bool,
}

/// How the API treats the tokens of an account whose status is not `active`. Nobody outside knows what the
/// real one does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Inactive {
    /// As ever; `account_status` tells.
    #[default]
    Shown,
    /// 401, as if the token were invalid.
    Refused,
}

impl User {
    /// An active person with a confirmed primary address at example.com and a uuid derived from the id.
    pub fn new(id: &str, display_name: &str) -> User {
        let user = User {
            id: id.to_owned(),
            uuid: String::new(),
            account_id: None,
            nickname: Some(id.to_owned()),
            username: Some(format!("{id}_example")),
            display_name: display_name.to_owned(),
            account_status: "active".to_owned(),
            kind: "user".to_owned(),
            emails: vec![Email { address: format!("{id}@example.com"), confirmed: true, primary: true }],
        };
        user.with_uuid(&uuid_of(&format!("user {id}")))
    }

    /// The same with this uuid, and an `account_id` to match.
    #[must_use]
    pub fn with_uuid(self, uuid: &str) -> User {
        let account_id = Some(format!("712020:{}", uuid.trim_matches(['{', '}'])));
        User { uuid: uuid.to_owned(), account_id, ..self }
    }

    /// False for a deactivated or closed account.
    pub fn is_active(&self) -> bool {
        self.account_status == "active"
    }
}

impl World {
    /// Opens an account, with a personal workspace (slug: the username, or the id) that it administers.
    /// An account with the same id is replaced and keeps its memberships.
    pub fn add_user(&mut self, user: User) {
        if let Ok(known) = self.user_mut(&user.id) {
            *known = user;
            return;
        }
        let slug = user.username.clone().unwrap_or_else(|| user.id.clone());
        let id = user.id.clone();
        let name = user.display_name.clone();
        self.users.push(user);
        if self.workspace(&slug).is_err() {
            self.add_workspace(Workspace { personal: true, ..Workspace::new(&slug, &name) });
            self.put_member(&id, &slug, Permission::Owner, true);
        }
    }

    /// Everybody, in the order they were added.
    pub fn users(&self) -> &[User] {
        &self.users
    }

    /// The account with this id.
    ///
    /// # Errors
    /// [`Unknown::User`].
    pub fn user(&self, id: &str) -> Result<&User, Unknown> {
        self.users.iter().find(|user| user.id == id).ok_or_else(|| Unknown::User(id.to_owned()))
    }

    /// The account with this id, to change any of its fields.
    ///
    /// # Errors
    /// [`Unknown::User`].
    pub fn user_mut(&mut self, id: &str) -> Result<&mut User, Unknown> {
        self.users.iter_mut().find(|user| user.id == id).ok_or_else(|| Unknown::User(id.to_owned()))
    }

    /// Sets `account_status`, for example to `inactive`.
    ///
    /// # Errors
    /// [`Unknown::User`].
    pub fn set_account_status(&mut self, user: &str, status: &str) -> Result<(), Unknown> {
        self.user_mut(user)?.account_status = status.to_owned();
        Ok(())
    }

    /// Gives an account one more address, not primary.
    ///
    /// # Errors
    /// [`Unknown::User`].
    pub fn add_email(&mut self, user: &str, address: &str, confirmed: bool) -> Result<(), Unknown> {
        let emails = &mut self.user_mut(user)?.emails;
        emails.retain(|email| email.address != address);
        emails.push(Email { address: address.to_owned(), confirmed, primary: false });
        Ok(())
    }

    /// Takes an address away.
    ///
    /// # Errors
    /// [`Unknown::User`], [`Unknown::Email`].
    pub fn remove_email(&mut self, user: &str, address: &str) -> Result<(), Unknown> {
        self.email_mut(user, address)?;
        self.user_mut(user)?.emails.retain(|email| email.address != address);
        Ok(())
    }

    /// The owner has proved that the address is theirs.
    ///
    /// # Errors
    /// [`Unknown::User`], [`Unknown::Email`].
    pub fn confirm_email(&mut self, user: &str, address: &str) -> Result<(), Unknown> {
        self.email_mut(user, address)?.confirmed = true;
        Ok(())
    }

    /// The address is no longer proved.
    ///
    /// # Errors
    /// [`Unknown::User`], [`Unknown::Email`].
    pub fn unconfirm_email(&mut self, user: &str, address: &str) -> Result<(), Unknown> {
        self.email_mut(user, address)?.confirmed = false;
        Ok(())
    }

    /// Makes `address` the only primary one; `None` leaves the account without.
    ///
    /// # Errors
    /// [`Unknown::User`], [`Unknown::Email`].
    pub fn set_primary_email(&mut self, user: &str, address: Option<&str>) -> Result<(), Unknown> {
        if let Some(address) = address {
            self.email_mut(user, address)?;
        }
        for email in &mut self.user_mut(user)?.emails {
            email.primary = Some(email.address.as_str()) == address;
        }
        Ok(())
    }

    fn email_mut(&mut self, user: &str, address: &str) -> Result<&mut Email, Unknown> {
        let emails = &mut self.user_mut(user)?.emails;
        emails
            .iter_mut()
            .find(|email| email.address == address)
            .ok_or_else(|| Unknown::Email(address.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_comes_with_a_personal_workspace() -> Result<(), Unknown> {
        let mut world = World::empty();
        world.add_user(User::new("ann", "Ann Example"));
        let workspace = world.workspace("ann_example")?;
        assert!(workspace.personal);
        let membership = world.membership("ann", "ann_example")?;
        assert!(membership.administrator);
        assert_eq!(membership.permission, Permission::Owner);
        Ok(())
    }

    #[test]
    fn two_accounts_may_have_one_nickname() -> Result<(), Unknown> {
        let mut world = World::empty();
        world.add_user(User::new("ann", "Ann"));
        world.add_user(User::new("eve", "Eve"));
        world.user_mut("eve")?.nickname = Some("ann".to_owned());
        assert_eq!(world.user("eve")?.nickname, world.user("ann")?.nickname);
        assert_ne!(world.user("eve")?.uuid, world.user("ann")?.uuid);
        Ok(())
    }

    #[test]
    fn at_most_one_address_is_primary() -> Result<(), Unknown> {
        let mut world = World::empty();
        world.add_user(User::new("ann", "Ann"));
        world.add_email("ann", "second@example.com", false)?;
        world.set_primary_email("ann", Some("second@example.com"))?;
        world.confirm_email("ann", "second@example.com")?;
        world.unconfirm_email("ann", "ann@example.com")?;
        let flags = |world: &World| -> Result<Vec<(bool, bool)>, Unknown> {
            Ok(world.user("ann")?.emails.iter().map(|email| (email.primary, email.confirmed)).collect())
        };
        assert_eq!(flags(&world)?, [(false, false), (true, true)]);
        world.set_primary_email("ann", None)?;
        assert_eq!(flags(&world)?, [(false, false), (false, true)]);
        assert!(matches!(world.confirm_email("ann", "none@example.com"), Err(Unknown::Email(_))));
        Ok(())
    }
}
