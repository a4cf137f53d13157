//! `PostgreSQL`, its backups and what is started from them.

use super::{Server, Tls};

/// A `PostgreSQL` server and its superuser.
pub struct Postgres {
    pub server: Server,
    pub host: String,
    pub port: u16,
    pub superuser: String,
    pub password: String,
    pub version: u32,
}

impl Postgres {
    /// Starts one with these settings in addition to, or instead of, those of `postgres.py`.
    pub fn start(version: u32, settings: &[(&str, &str)], tls: Option<&Tls>) -> Self {
        let mut arguments = vec![format!("--version={version}")];
        arguments.extend(
            settings
                .iter()
                .map(|(name, value)| format!("-c{name}={value}")),
        );
        if let Some(tls) = tls {
            arguments.extend([tls.certificate_argument(), tls.key_argument()]);
        }
        Self::of(Server::start("postgres", &arguments))
    }

    fn of(server: Server) -> Self {
        Self {
            host: server.told("host"),
            port: server.told("port"),
            superuser: server.told("superuser"),
            password: server.told("password"),
            version: server.told("version"),
            server,
        }
    }

    /// Takes a base backup, which lives as long as this server. Only version 15 has the tools.
    pub fn backup(&self) -> Backup<'_> {
        let answer = self.server.command("backup");
        let path = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
        Backup {
            of: self,
            path: path("path"),
            wal: path("wal"),
        }
    }
}

/// A base backup of a server.
pub struct Backup<'a> {
    of: &'a Postgres,
    path: String,
    wal: String,
}

impl Backup<'_> {
    /// Starts another server as this one was at a restore point after the backup. The first one must
    /// have been stopped.
    pub fn recover_to(&self, restore_point: &str) -> Postgres {
        let settings = [
            format!("-crestore_command=cp {}/%f %p", self.wal),
            format!("-crecovery_target_name={restore_point}"),
            "-crecovery_target_action=promote".to_owned(),
        ];
        self.start("recovery", settings.into())
    }

    /// Starts a standby that follows the server.
    pub fn follow(&self) -> Postgres {
        let Postgres {
            host,
            port,
            superuser,
            password,
            ..
        } = self.of;
        let primary = format!("host={host} port={port} user={superuser} password={password}");
        self.start("standby", vec![format!("-cprimary_conninfo={primary}")])
    }

    fn start(&self, role: &str, mut arguments: Vec<String>) -> Postgres {
        arguments.extend([
            format!("--version={}", self.of.version),
            format!("--backup={}", self.path),
            format!("--as={role}"),
        ]);
        Postgres {
            password: self.of.password.clone(),
            ..Postgres::of(Server::start("postgres", &arguments))
        }
    }
}
