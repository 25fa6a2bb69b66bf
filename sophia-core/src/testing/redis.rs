//! Redis servers of a test's own, to kill, to hang and to bring back.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Names the program to start, where it is not `redis-server` or `valkey-server` of the machine.
const PROGRAM_VARIABLE: &str = "SOPHIA_TEST_REDIS_SERVER";
/// How long a server may take to answer.
const STARTS_WITHIN: Duration = Duration::from_secs(20);
/// Slots of a Cluster.
const SLOTS: u16 = 16_384;

/// A Redis server on a free loopback port that keeps nothing. Ends with its value.
#[derive(Debug)]
pub struct RedisServer {
    directory: PathBuf,
    port: u16,
    file: Option<PathBuf>,
    options: Vec<String>,
    child: Option<Child>,
}

impl RedisServer {
    /// Starts a server.
    ///
    /// # Panics
    /// Where there is none to start.
    pub fn start() -> RedisServer {
        RedisServer::start_with(&[])
    }

    /// Starts a server with further options of its command line.
    ///
    /// # Panics
    /// Where there is none to start.
    pub fn start_with(options: &[&str]) -> RedisServer {
        RedisServer::launch(None, options)
    }

    fn launch(file: Option<&Path>, options: &[&str]) -> RedisServer {
        let directory = std::env::temp_dir().join(format!("sophia-redis-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&directory).expect("a directory for Redis");
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let file = file.map(|file| {
            let own = directory.join("redis.conf");
            std::fs::copy(file, &own).expect("its configuration");
            own
        });
        let mut server = RedisServer { directory, port: free_port(), file, options, child: None };
        server.restart();
        server
    }

    /// Starts a replica of a server.
    ///
    /// # Panics
    /// Where there is none to start.
    pub fn replica_of(master: &RedisServer) -> RedisServer {
        RedisServer::start_with(&["--replicaof", "127.0.0.1", &master.port.to_string()])
    }

    /// Starts a Sentinel that watches a server under a name, and moves its replica up soon after it is gone.
    ///
    /// # Panics
    /// Where there is none to start.
    pub fn sentinel_of(name: &str, master: &RedisServer) -> RedisServer {
        let lines = [
            format!("sentinel monitor {name} 127.0.0.1 {} 1", master.port),
            format!("sentinel down-after-milliseconds {name} 500"),
            format!("sentinel failover-timeout {name} 3000"),
        ];
        let file = std::env::temp_dir().join(format!("sophia-sentinel-{}.conf", uuid::Uuid::now_v7()));
        std::fs::write(&file, lines.join("\n")).expect("a configuration for Sentinel");
        // Sentinel rewrites its file, and takes it as its first argument.
        let sentinel = RedisServer::launch(Some(&file), &["--sentinel"]);
        let _ = std::fs::remove_file(file);
        sentinel
    }

    /// Returns where it listens.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Returns the port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Kills it, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again, empty, on the same port.
    ///
    /// # Panics
    /// Where it does not answer.
    pub fn restart(&mut self) {
        self.kill();
        let keeps_nothing = ["--save", "", "--appendonly", "no"];
        let child = Command::new(program())
            .args(&self.file)
            .args(["--bind", "127.0.0.1", "--daemonize", "no"])
            // Sentinel knows neither.
            .args(if self.file.is_none() { &keeps_nothing[..] } else { &[] })
            .args(["--port", &self.port.to_string()])
            .arg("--dir")
            .arg(&self.directory)
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("Redis starts; install one: apt-get install redis-server, or name it in SOPHIA_TEST_REDIS_SERVER");
        self.child = Some(child);
        wait_until("Redis answers", || self.ask("PING").is_some_and(|said| said.starts_with("+PONG")));
    }

    /// Stops it where it is: it takes connections and answers nothing.
    pub fn hang(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        self.signal("-CONT");
    }

    /// Sends one command, and returns the first bytes of what it says; `None` where it says nothing.
    pub fn ask(&self, command: &str) -> Option<String> {
        let address = ([127, 0, 0, 1], self.port).into();
        let mut connection = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
        connection.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        connection.write_all(format!("{command}\r\n").as_bytes()).ok()?;
        let mut said = [0; 65_536];
        let length = connection.read(&mut said).ok()?;
        Some(String::from_utf8_lossy(&said[..length]).into_owned())
    }

    fn signal(&self, signal: &str) {
        let child = self.child.as_ref().expect("it runs");
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().expect("kill");
        assert!(sent.success());
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A Cluster of three masters without replicas.
#[derive(Debug)]
pub struct RedisCluster {
    /// The masters. Slots are given to them in order, a third to each.
    pub masters: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts a Cluster in which the slots of those that are left are served when a master is gone.
    ///
    /// # Panics
    /// Where it does not come up.
    pub fn start() -> RedisCluster {
        let options = [
            "--cluster-enabled",
            "yes",
            "--cluster-require-full-coverage",
            "no",
            "--cluster-node-timeout",
            "1000",
            "--cluster-config-file",
            "nodes.conf",
        ];
        let masters: Vec<_> = (0..3)
            .map(|_| {
                // Its own bus port: the default is too far from the port of the server to be free for sure.
                let bus = free_port().to_string();
                RedisServer::start_with(&[&options[..], &["--cluster-port", &bus]].concat())
            })
            .collect();
        for (place, master) in masters.iter().enumerate() {
            let third = SLOTS / 3 + 1;
            let first = third * u16::try_from(place).unwrap_or(0);
            let last = (first + third - 1).min(SLOTS - 1);
            master.ask(&format!("CLUSTER ADDSLOTSRANGE {first} {last}"));
            master.ask(&format!("CLUSTER SET-CONFIG-EPOCH {}", place + 1));
        }
        let first = &masters[0];
        for other in &masters[1..] {
            let bus = other.options.last().cloned().unwrap_or_default();
            first.ask(&format!("CLUSTER MEET 127.0.0.1 {} {bus}", other.port));
        }
        let cluster = RedisCluster { masters };
        cluster.wait_until_ready();
        cluster
    }

    /// Waits until all masters serve all slots.
    ///
    /// # Panics
    /// Where they do not.
    pub fn wait_until_ready(&self) {
        wait_until("the Cluster is ready", || {
            self.masters.iter().all(|master| {
                master.ask("CLUSTER INFO").is_some_and(|said| {
                    said.contains("cluster_state:ok")
                        && said.contains("cluster_slots_ok:16384")
                        && said.contains("cluster_known_nodes:3")
                })
            })
        });
    }

    /// Returns where the masters listen.
    pub fn urls(&self) -> Vec<String> {
        self.masters.iter().map(RedisServer::url).collect()
    }
}

fn program() -> PathBuf {
    if let Some(named) = std::env::var_os(PROGRAM_VARIABLE) {
        return named.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = std::env::split_paths(&path).collect();
    let find = |name: &str| folders.iter().map(|folder| folder.join(name)).find(|program| program.exists());
    find("redis-server").or_else(|| find("valkey-server")).unwrap_or_else(|| Path::new("redis-server").to_owned())
}

fn free_port() -> u16 {
    let probe = TcpListener::bind("127.0.0.1:0").expect("a free port");
    probe.local_addr().expect("its address").port()
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + STARTS_WITHIN;
    while !condition() {
        assert!(Instant::now() < until, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
