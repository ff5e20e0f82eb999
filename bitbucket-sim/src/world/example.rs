//! The demonstration: five people and two teams.
//!
//! Owns: who is in it. The uuids are invented and never change, so that a configuration may pin them.

use super::{Client, Permission, User, Workspace, World};

/// The id of the demonstration's client.
pub const EXAMPLE_CLIENT_ID: &str = "teamgate-demo";
/// The secret of the demonstration's client. Known to everybody, good for nothing.
pub const EXAMPLE_CLIENT_SECRET: &str = "not-a-secret-only-for-the-demo";

const CALLBACK: &str = "http://127.0.0.1:8080/.teamgate/callback";

impl World {
    /// The demonstration. Ann administers and owns `acme`, Ben is a member of it, Dan only collaborates on one
    /// of its repositories; Cleo is a member of `globex`; Eve is in no team but her own. One client,
    /// [`EXAMPLE_CLIENT_ID`], whose callback [`World::set_callback`] changes.
    pub fn example() -> World {
        let mut world = World::empty();
        world.register_client(Client {
            name: "teamgate demo".to_owned(),
            ..Client::new(EXAMPLE_CLIENT_ID, EXAMPLE_CLIENT_SECRET, CALLBACK)
        });
        for (id, name, uuid) in [
            ("ann", "Ann Abel", "{a0000000-0000-4000-8000-0000000000a1}"),
            ("ben", "Ben Berg", "{b0000000-0000-4000-8000-0000000000b1}"),
            ("cleo", "Cleo Costa", "{c0000000-0000-4000-8000-0000000000c1}"),
            ("dan", "Dan Duarte", "{d0000000-0000-4000-8000-0000000000d1}"),
            ("eve", "Eve Ekholm", "{e0000000-0000-4000-8000-0000000000e1}"),
        ] {
            world.add_user(User::new(id, name).with_uuid(uuid));
        }
        for (slug, name, uuid) in [
            ("acme", "Acme", "{aaaaaaaa-0000-4000-8000-000000000001}"),
            ("globex", "Globex", "{bbbbbbbb-0000-4000-8000-000000000002}"),
        ] {
            world.add_workspace(Workspace { uuid: uuid.to_owned(), ..Workspace::new(slug, name) });
        }
        for (user, workspace, permission, administrator) in [
            ("ann", "acme", Permission::Owner, true),
            ("ben", "acme", Permission::Member, false),
            ("dan", "acme", Permission::Collaborator, false),
            ("cleo", "globex", Permission::Member, false),
        ] {
            world.put_member(user, workspace, permission, administrator);
        }
        // None of these names is unknown; a test below counts.
        let _ = world.add_repository("acme", "api");
        let _ = world.add_repository("acme", "docs");
        for (user, repository, permission) in [
            ("ann", "acme/api", "admin"),
            ("ann", "acme/docs", "admin"),
            ("ben", "acme/api", "write"),
            ("ben", "acme/docs", "read"),
            ("dan", "acme/api", "write"),
        ] {
            let _ = world.set_repository_permission(user, repository, Some(permission));
        }
        world
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::Unknown;

    #[test]
    fn the_demonstration_is_as_the_readme_tells() -> Result<(), Unknown> {
        let world = World::example();
        let told: Vec<String> = world
            .users()
            .iter()
            .flat_map(|user| {
                world.memberships_of(&user.id).into_iter().map(|(workspace, membership)| {
                    let administrator = if membership.administrator { " administrator" } else { "" };
                    format!(
                        "{} {} {}{administrator}",
                        user.id,
                        workspace.slug,
                        membership.permission.as_str()
                    )
                })
            })
            .collect();
        assert_eq!(
            told,
            [
                "ann ann_example owner administrator",
                "ann acme owner administrator",
                "ben ben_example owner administrator",
                "ben acme member",
                "cleo cleo_example owner administrator",
                "cleo globex member",
                "dan dan_example owner administrator",
                "dan acme collaborator",
                "eve eve_example owner administrator",
            ]
        );
        assert_eq!((world.repositories.len(), world.repository_permissions.len()), (2, 5));
        let client = world.client(EXAMPLE_CLIENT_ID)?;
        assert_eq!(client.secret, EXAMPLE_CLIENT_SECRET);
        assert_eq!(client.scopes, ["account", "email"]);
        Ok(())
    }
}
