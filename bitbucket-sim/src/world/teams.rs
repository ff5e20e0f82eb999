//! The teams (workspaces) of the pretend Bitbucket.
//!
//! Owns: workspaces, who is in them and as what. A membership names the workspace by its uuid, so that a slug
//! can be renamed or change hands under it.
//! Must not know: what an application may see of it.

use super::{Unknown, World};
use crate::mint::uuid_of;

/// A team.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// `{…}` with the braces: the real identity.
    pub uuid: String,
    /// The short name in URLs. Can be renamed; a freed one can be taken by another workspace.
    pub slug: String,
    /// The display name, not unique.
    pub name: String,
    /// Hidden from those who are not in it. Default true.
    pub private: bool,
    /// The workspace that came with an account.
    pub personal: bool,
}

/// That a user is in a workspace.
#[derive(Clone, Debug)]
pub struct Membership {
    /// The user's id.
    pub user: String,
    /// The workspace's uuid.
    pub workspace: String,
    /// What `…/permission` answers.
    pub permission: Permission,
    /// What `administrator` in the list of workspaces says.
    pub administrator: bool,
}

/// The highest permission in a workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Of the workspace.
    Owner,
    /// May create projects.
    CreateProject,
    /// Write access to some repository, but not a member of the workspace.
    Collaborator,
    /// The plain kind.
    Member,
    /// A value that nobody has documented yet.
    Other(String),
}

impl Permission {
    /// As the API spells it.
    pub fn as_str(&self) -> &str {
        match self {
            Permission::Owner => "owner",
            Permission::CreateProject => "create-project",
            Permission::Collaborator => "collaborator",
            Permission::Member => "member",
            Permission::Other(other) => other,
        }
    }
}

impl From<&str> for Permission {
    fn from(text: &str) -> Permission {
        match text {
            "owner" => Permission::Owner,
            "create-project" => Permission::CreateProject,
            "collaborator" => Permission::Collaborator,
            "member" => Permission::Member,
            other => Permission::Other(other.to_owned()),
        }
    }
}

impl Workspace {
    /// A private workspace with a uuid derived from the slug.
    pub fn new(slug: &str, name: &str) -> Workspace {
        Workspace {
            uuid: uuid_of(&format!("workspace {slug}")),
            slug: slug.to_owned(),
            name: name.to_owned(),
            private: true,
            personal: false,
        }
    }
}

impl World {
    /// Founds a workspace without members. One with the same slug is replaced, as by
    /// [`World::delete_workspace`].
    pub fn add_workspace(&mut self, workspace: Workspace) {
        // Absent is as good as deleted.
        let _ = self.delete_workspace(&workspace.slug);
        self.workspaces.push(workspace);
    }

    /// Every workspace, in the order they were added.
    pub fn workspaces(&self) -> &[Workspace] {
        &self.workspaces
    }

    /// The workspace with this slug, or with this `{uuid}`.
    ///
    /// # Errors
    /// [`Unknown::Workspace`].
    pub fn workspace(&self, slug_or_uuid: &str) -> Result<&Workspace, Unknown> {
        self.workspaces
            .iter()
            .find(|workspace| workspace.slug == slug_or_uuid || workspace.uuid == slug_or_uuid)
            .ok_or_else(|| Unknown::Workspace(slug_or_uuid.to_owned()))
    }

    /// The same, to change its fields. Use [`World::rename_workspace`] for the slug.
    ///
    /// # Errors
    /// [`Unknown::Workspace`].
    pub fn workspace_mut(&mut self, slug_or_uuid: &str) -> Result<&mut Workspace, Unknown> {
        self.workspaces
            .iter_mut()
            .find(|workspace| workspace.slug == slug_or_uuid || workspace.uuid == slug_or_uuid)
            .ok_or_else(|| Unknown::Workspace(slug_or_uuid.to_owned()))
    }

    /// Puts a user into a workspace; who is in it already is changed.
    ///
    /// # Errors
    /// [`Unknown::User`], [`Unknown::Workspace`].
    pub fn add_member(
        &mut self,
        user: &str,
        workspace: &str,
        permission: impl Into<Permission>,
        administrator: bool,
    ) -> Result<(), Unknown> {
        self.user(user)?;
        self.workspace(workspace)?;
        self.put_member(user, workspace, permission.into(), administrator);
        Ok(())
    }

    /// Takes a user out of a workspace, with their access to its repositories.
    ///
    /// # Errors
    /// [`Unknown::User`], [`Unknown::Workspace`], [`Unknown::Membership`].
    pub fn remove_member(&mut self, user: &str, workspace: &str) -> Result<(), Unknown> {
        let uuid = self.membership(user, workspace)?.workspace.clone();
        self.memberships.retain(|member| member.user != user || member.workspace != uuid);
        self.drop_repository_access(user, &uuid);
        Ok(())
    }

    /// Changes what `…/permission` answers for a member.
    ///
    /// # Errors
    /// [`Unknown::User`], [`Unknown::Workspace`], [`Unknown::Membership`].
    pub fn set_permission(
        &mut self,
        user: &str,
        workspace: &str,
        permission: impl Into<Permission>,
    ) -> Result<(), Unknown> {
        self.membership_mut(user, workspace)?.permission = permission.into();
        Ok(())
    }

    /// Makes a member an administrator, or no longer one.
    ///
    /// # Errors
    /// [`Unknown::User`], [`Unknown::Workspace`], [`Unknown::Membership`].
    pub fn set_administrator(
        &mut self,
        user: &str,
        workspace: &str,
        administrator: bool,
    ) -> Result<(), Unknown> {
        self.membership_mut(user, workspace)?.administrator = administrator;
        Ok(())
    }

    /// How this user is in this workspace.
    ///
    /// # Errors
    /// [`Unknown::User`], [`Unknown::Workspace`], [`Unknown::Membership`].
    pub fn membership(&self, user: &str, workspace: &str) -> Result<&Membership, Unknown> {
        let user = &self.user(user)?.id;
        let workspace = self.workspace(workspace)?;
        let nowhere = || Unknown::Membership { user: user.clone(), workspace: workspace.slug.clone() };
        self.memberships
            .iter()
            .find(|member| member.user == *user && member.workspace == workspace.uuid)
            .ok_or_else(nowhere)
    }

    /// The workspaces a user is in, with how. Empty for a user that does not exist.
    pub fn memberships_of(&self, user: &str) -> Vec<(&Workspace, &Membership)> {
        let of_user = self.memberships.iter().filter(|member| member.user == user);
        of_user.filter_map(|member| Some((self.workspace(&member.workspace).ok()?, member))).collect()
    }

    /// Gives a workspace another slug. The old one is free at once.
    ///
    /// # Errors
    /// [`Unknown::Workspace`], [`Unknown::SlugTaken`].
    pub fn rename_workspace(&mut self, slug: &str, new_slug: &str) -> Result<(), Unknown> {
        if slug != new_slug && self.workspace(new_slug).is_ok() {
            return Err(Unknown::SlugTaken(new_slug.to_owned()));
        }
        self.workspace_mut(slug)?.slug = new_slug.to_owned();
        Ok(())
    }

    /// Another workspace takes a slug: the owner so far keeps uuid and members and is called `SLUG-old`; the
    /// slug now means `new_uuid`, which is founded without members when there is none such.
    ///
    /// # Errors
    /// [`Unknown::Workspace`], [`Unknown::SlugTaken`] when `SLUG-old` is.
    pub fn move_slug(&mut self, slug: &str, new_uuid: &str) -> Result<(), Unknown> {
        let old = self.workspace(slug)?.clone();
        if old.uuid == new_uuid {
            return Ok(());
        }
        self.rename_workspace(&old.slug, &format!("{}-old", old.slug))?;
        match self.workspace_mut(new_uuid) {
            Ok(heir) => heir.slug = old.slug,
            Err(_) => {
                let heir = Workspace { uuid: new_uuid.to_owned(), personal: false, ..old };
                self.workspaces.push(heir);
            }
        }
        Ok(())
    }

    /// The workspace, its memberships and its repositories are gone.
    ///
    /// # Errors
    /// [`Unknown::Workspace`].
    pub fn delete_workspace(&mut self, slug: &str) -> Result<(), Unknown> {
        let uuid = self.workspace(slug)?.uuid.clone();
        self.workspaces.retain(|workspace| workspace.uuid != uuid);
        self.memberships.retain(|member| member.workspace != uuid);
        self.drop_repositories(&uuid);
        Ok(())
    }

    pub(super) fn put_member(
        &mut self,
        user: &str,
        workspace: &str,
        permission: Permission,
        administrator: bool,
    ) {
        if let Ok(known) = self.membership_mut(user, workspace) {
            known.permission = permission;
            known.administrator = administrator;
        } else if let Ok(workspace) = self.workspace(workspace) {
            let workspace = workspace.uuid.clone();
            let user = user.to_owned();
            self.memberships.push(Membership { user, workspace, permission, administrator });
        }
    }

    fn membership_mut(&mut self, user: &str, workspace: &str) -> Result<&mut Membership, Unknown> {
        let uuid = self.membership(user, workspace)?.workspace.clone();
        let nowhere = || Unknown::Membership { user: user.to_owned(), workspace: workspace.to_owned() };
        self.memberships
            .iter_mut()
            .find(|member| member.user == user && member.workspace == uuid)
            .ok_or_else(nowhere)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slugs(world: &World, user: &str) -> Vec<String> {
        world.memberships_of(user).iter().map(|(workspace, _)| workspace.slug.clone()).collect()
    }

    #[test]
    fn members_come_and_go() -> Result<(), Unknown> {
        let mut world = World::example();
        world.add_member("eve", "acme", "create-project", false)?;
        assert_eq!(world.membership("eve", "acme")?.permission, Permission::CreateProject);
        world.set_permission("eve", "acme", "astronaut")?;
        world.set_administrator("eve", "acme", true)?;
        assert_eq!(world.membership("eve", "acme")?.permission.as_str(), "astronaut");
        assert!(world.membership("eve", "acme")?.administrator);
        world.remove_member("eve", "acme")?;
        assert_eq!(slugs(&world, "eve"), ["eve_example"]);
        assert!(matches!(world.remove_member("eve", "acme"), Err(Unknown::Membership { .. })));
        assert!(matches!(world.remove_member("eve", "acne"), Err(Unknown::Workspace(_))));
        assert!(matches!(world.add_member("eva", "acme", "member", false), Err(Unknown::User(_))));
        Ok(())
    }

    #[test]
    fn a_renamed_workspace_keeps_its_members_and_frees_its_slug() -> Result<(), Unknown> {
        let mut world = World::example();
        let uuid = world.workspace("acme")?.uuid.clone();
        world.rename_workspace("acme", "acme-inc")?;
        assert_eq!(world.workspace("acme-inc")?.uuid, uuid);
        assert!(world.membership("ben", "acme-inc").is_ok());
        assert!(world.workspace("acme").is_err());
        assert_eq!(
            world.rename_workspace("acme-inc", "globex"),
            Err(Unknown::SlugTaken("globex".to_owned()))
        );
        Ok(())
    }

    #[test]
    fn a_moved_slug_means_another_workspace_whose_members_are_others() -> Result<(), Unknown> {
        let mut world = World::example();
        let old = world.workspace("acme")?.uuid.clone();
        world.move_slug("acme", "{00000000-0000-4000-8000-00000000beef}")?;
        assert_ne!(world.workspace("acme")?.uuid, old);
        assert!(world.membership("ann", "acme").is_err());
        assert_eq!(world.workspace("acme-old")?.uuid, old);
        assert!(world.membership("ann", "acme-old").is_ok());
        Ok(())
    }

    #[test]
    fn a_moved_slug_can_go_to_a_workspace_that_exists() -> Result<(), Unknown> {
        let mut world = World::example();
        let globex = world.workspace("globex")?.uuid.clone();
        world.move_slug("acme", &globex)?;
        assert!(world.membership("cleo", "acme").is_ok());
        assert!(world.membership("ann", "acme").is_err());
        assert!(world.workspace("globex").is_err());
        Ok(())
    }

    #[test]
    fn a_deleted_workspace_takes_its_memberships_along() -> Result<(), Unknown> {
        let mut world = World::example();
        world.delete_workspace("acme")?;
        assert_eq!(slugs(&world, "ben"), ["ben_example"]);
        world.add_workspace(Workspace::new("acme", "Acme again"));
        assert_eq!(slugs(&world, "ben"), ["ben_example"]);
        Ok(())
    }
}
