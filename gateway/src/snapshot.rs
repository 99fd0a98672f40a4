//! What control publishes and the path reads: immutable, swapped as a whole.

use std::fs;

use crate::{auth::Users, gateway::StartError, router::RouteTable, settings::Settings};

/// One consistent state of everything that a reload can change.
pub struct Snapshot {
    /// The configuration.
    pub settings: Settings,
    /// Who may connect.
    pub users: Users,
    /// Which request goes where.
    pub routes: RouteTable,
}

impl Snapshot {
    /// Reads the files that `settings` name.
    ///
    /// # Errors
    /// Names the first file that could not be used and why.
    pub fn build(settings: Settings) -> Result<Self, StartError> {
        Self::after(&RouteTable::default(), settings)
    }

    /// The snapshot of a reload: backends that did not change keep their connections.
    ///
    /// # Errors
    /// As [`Snapshot::build`].
    pub fn rebuild(&self, settings: Settings) -> Result<Self, StartError> {
        Self::after(&self.routes, settings)
    }

    fn after(routes: &RouteTable, settings: Settings) -> Result<Self, StartError> {
        let users = read_users(&settings)?;
        let routes = routes.recompile(&settings).map_err(|error| StartError::Settings(error.to_string()))?;
        Ok(Self { settings, users, routes })
    }
}

fn read_users(settings: &Settings) -> Result<Users, StartError> {
    let Some(path) = &settings.auth.password_file else {
        return Ok(Users::default());
    };
    let text = fs::read_to_string(path).map_err(|source| StartError::File { path: path.clone(), source })?;
    Users::parse(&text).map_err(|error| StartError::PasswordFile { path: path.clone(), error })
}
