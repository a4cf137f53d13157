//! The image: what is in it, and that keycard runs with nothing else. `infra/image/check.sh` builds
//! it first.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::authority::Authority;
use crate::support::client::SOON;
use crate::support::process::{Output, Worker};
use crate::support::servers::{Postgres, postgres_version};
use crate::support::services::QueueKind;
use crate::support::site::{Site, Wishes};

const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Named by the READMEs and the examples of infra/.
const RDS_AUTHORITIES: &str = "/etc/ssl/rds-ca.pem";

/// In /etc/hosts; DNS denies it.
const IN_HOSTS: &str = "database.hosts.test";
/// Known to DNS alone.
const IN_DNS: &str = "database.dns.test";

/// What a container runtime does, as root: processes and devices, the files that it mounts (here the
/// site's), and all else read-only. Takes the root, the site's directory, the user, the command.
const CONTAINER: &str = r#"
set -eu
root=$1 site=$2 user=$3
shift 3
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs dev "$root/dev"
for device in null zero full random urandom; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mount --bind "$site" "$root$site"
mount -o remount,bind,ro "$root"
exec chroot --userspec="$user" --groups= "$root" "$@"
"#;

/// The image, unpacked as a container runtime would.
struct Image {
    config: Value,
    directory: TempDir,
}

impl Image {
    fn unpacked() -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let archive = concat!(env!("CARGO_MANIFEST_DIR"), "/target/image/keycard.tar");
        assert!(Path::new(archive).exists(), "first infra/image/build.sh");
        unpack(Path::new(archive), directory.path());
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap();
            directory
                .path()
                .join("blobs")
                .join(digest.replace(':', "/"))
        };
        let index = json(&directory.path().join("index.json"));
        let manifest = json(&blob(&index["manifests"][0]));
        let root = directory.path().join("root");
        fs::create_dir(&root).unwrap();
        for layer in manifest["layers"].as_array().unwrap() {
            unpack(&blob(layer), &root);
        }
        Self {
            config: json(&blob(&manifest["config"]))["config"].take(),
            directory,
        }
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    fn entry_point(&self) -> &str {
        let words = self.config["Entrypoint"].as_array().unwrap();
        assert_eq!(words.len(), 1, "{words:?}");
        words[0].as_str().unwrap()
    }

    fn user(&self) -> &str {
        self.config["User"].as_str().unwrap()
    }

    /// Adds what a runtime brings into every container.
    fn join(&self, site: &Site, resolver: SocketAddr) {
        let root = self.root();
        let files = site.path().strip_prefix("/").unwrap();
        for mounted in [Path::new("proc"), Path::new("dev"), files] {
            fs::create_dir_all(root.join(mounted)).unwrap();
        }
        let hosts = format!("127.0.0.1 {IN_HOSTS}\n");
        fs::write(root.join("etc/hosts"), hosts).unwrap();
        let resolv = format!("nameserver {}\n", resolver.ip());
        fs::write(root.join("etc/resolv.conf"), resolv).unwrap();
        let owner = ["-R", self.user()];
        let mut chown = Command::new("chown");
        assert!(
            chown
                .args(owner)
                .arg(site.path())
                .status()
                .unwrap()
                .success()
        );
    }

    /// keycard from the image, as process 1, not yet started.
    fn keycard(&self, site: &Site, arguments: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--pid", "--fork", "--kill-child"])
            .args(["bash", "-c", CONTAINER, "container"])
            .args([&self.root(), site.path()])
            .args([self.user(), self.entry_point(), "--config"])
            .arg(&site.config)
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DB_ADMIN_PASSWORD", "admin");
        command
    }
}

fn unpack(archive: &Path, directory: &Path) {
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--preserve-permissions", "--same-owner"]);
    tar.arg("--file")
        .arg(archive)
        .arg("--directory")
        .arg(directory);
    assert!(tar.status().unwrap().success(), "{}", archive.display());
}

fn json(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

#[ignore = "needs the image: make verify"]
#[test]
fn the_image_is_keycard_and_whom_it_trusts_and_nothing_else() {
    let image = Image::unpacked();
    assert_eq!(image.user(), "65532:65532");
    assert_eq!(image.entry_point(), "/usr/local/bin/keycard");
    let label =
        |name: &str| image.config["Labels"][format!("org.opencontainers.image.{name}")].as_str();
    assert_eq!(label("title"), Some("keycard"));
    assert_eq!(label("version"), Some(env!("CARGO_PKG_VERSION")));
    assert!(label("revision").unwrap().len() >= 40);

    let root = image.root();
    let mut files = vec![];
    collect(&root, &mut files);
    let names: Vec<&str> = files
        .iter()
        .map(|file| {
            file.to_str()
                .unwrap()
                .strip_prefix(root.to_str().unwrap())
                .unwrap()
        })
        .collect();
    let expected = [SYSTEM_AUTHORITIES, RDS_AUTHORITIES, image.entry_point()];
    assert_eq!(names, expected);

    for bundle in [SYSTEM_AUTHORITIES, RDS_AUTHORITIES] {
        let mut roots = RootCertStore::empty();
        let file = root.join(bundle.strip_prefix('/').unwrap());
        for certificate in CertificateDer::pem_file_iter(file).unwrap() {
            roots.add(certificate.unwrap()).unwrap();
        }
        assert!(roots.len() > 100, "{bundle}: {}", roots.len());
    }
}

/// All files below a directory, in order; what is there is root's and nobody else may change it.
fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(directory).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let mode = metadata.permissions().mode() & 0o7777;
        let is_plain = [0o644, 0o755].contains(&mode) && metadata.uid() == 0;
        assert!(
            is_plain,
            "{}: {mode:o} of {}",
            path.display(),
            metadata.uid()
        );
        if metadata.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
}

#[ignore = "needs the image: make verify"]
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_in_the_image_finds_its_database_by_name_and_issues_over_tls() {
    let authority = Authority::for_hosts(&[IN_HOSTS, IN_DNS]);
    let postgres = authority.start(|tls| Postgres::start(postgres_version(), &[], Some(tls)));
    let site = Site::new(Wishes {
        postgres: Box::leak(Box::new(postgres)),
        queue: QueueKind::Postgres,
        ..Wishes::default()
    })
    .await;
    let ca = site.path().join("ca.pem");
    fs::copy(authority.certificate(), &ca).unwrap();
    let image = Image::unpacked();
    image.join(&site, resolver());

    let version = Output::of(&mut image.keycard(&site, &["--version"]));
    let expected = concat!("keycard ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(version.stdout, expected, "{}", version.stderr);

    // How it reaches the database as `host`, and whom it believes.
    let reaching = |mut keycard: Command, host: &str, authorities: Option<&Path>| {
        let (port, dbname) = (site.postgres.port, &site.dbname);
        let url = format!("postgresql://{{{{username}}}}:{{{{password}}}}@{host}:{port}/{dbname}");
        keycard.env("KEYCARD_DATABASES__APP__CONNECTION_URL", url);
        if let Some(file) = authorities {
            keycard.env("KEYCARD_DATABASES__APP__CA_FILE", file);
        }
        keycard
    };
    let list = || image.keycard(&site, &["lease", "list"]);
    for authorities in [None, Some(Path::new(RDS_AUTHORITIES))] {
        let strangers = Output::of(&mut reaching(list(), IN_HOSTS, authorities));
        let said = strangers.stderr;
        assert!(said.contains("UnknownIssuer"), "{authorities:?}: {said}");
    }

    let log = site.path().join("worker.log");
    let worker = image.keycard(&site, &["worker"]);
    let mut worker = Worker::start(&mut reaching(worker, IN_HOSTS, Some(&ca)), log);
    worker.ready().await;
    let orders = site.client("orders-svc").await;
    let issued = orders.issued("app-role", None).await;
    let secret = Site::secret(&issued);
    let text = |key: &str| secret[key].as_str().unwrap();
    site.login(text("username"), text("password"))
        .await
        .unwrap();
    let listed = Output::of(&mut reaching(list(), IN_DNS, Some(&ca)));
    let is_listed = listed.stdout.contains(text("username"));
    assert!(is_listed, "{}", listed.stderr);

    let keycard = child_of(worker.id());
    is_process_one(&keycard);
    let stopped = Command::new("kill").args(["-TERM", &keycard]).status();
    assert!(stopped.unwrap().success());
    assert_eq!(worker.exit(SOON).await.code(), Some(0));
    assert!(worker.log().contains("keycard has stopped"));
}

/// The process id of the only child of another.
fn child_of(process: u32) -> String {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
    children.unwrap().trim().to_owned()
}

/// As which user keycard runs, with which rights, and on which root.
fn is_process_one(keycard: &str) {
    let of_it = |file: &str| fs::read_to_string(format!("/proc/{keycard}/{file}")).unwrap();
    let status = of_it("status");
    for line in [
        "Name:\tkeycard",
        "Uid:\t65532\t65532\t65532\t65532",
        "CapEff:\t0000000000000000",
    ] {
        assert!(status.contains(line), "{status}");
    }
    let ids = status.lines().find(|line| line.starts_with("NSpid:"));
    assert!(ids.unwrap().ends_with("\t1"), "{status}");
    let mounts = of_it("mountinfo");
    let mut roots = mounts.lines().map(|line| line.split(' ').skip(4));
    let root = roots.find_map(|mut fields| (fields.next() == Some("/")).then(|| fields.next()));
    assert!(root.unwrap().unwrap().starts_with("ro,"), "{mounts}");
    // It has started itself again, with room for what senders nest.
    assert!(of_it("environ").contains("RUST_MIN_STACK="));
}

/// A DNS server that knows one name, as 127.0.0.1. A resolver only asks port 53, so the address is
/// one that nobody else has.
fn resolver() -> SocketAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    let socket = UdpSocket::bind((Ipv4Addr::new(127, 53, high, low), 53)).unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query) {
            let _ = socket.send_to(&answer(&query[..length]), from);
        }
    });
    address
}

/// To a query for IPv4 and the known name its address, for another kind of it nothing; any other
/// name does not exist.
fn answer(query: &[u8]) -> Vec<u8> {
    const HEADER: usize = 12;
    let mut name = String::new();
    let mut at = HEADER;
    while query[at] != 0 {
        let label = &query[at + 1..=at + usize::from(query[at])];
        name = format!("{name}{}.", std::str::from_utf8(label).unwrap());
        at += 1 + label.len();
    }
    let question = &query[HEADER..at + 5];
    let is_known = name == format!("{IN_DNS}.");
    let is_answered = is_known && question[question.len() - 4..] == [0, 1, 0, 1];
    // A response, recursion available; "no such name" is 3.
    let code = if is_known { 0 } else { 3 };
    let mut answer = query[..2].to_vec();
    answer.extend([
        0x81,
        0x80 | code,
        0,
        1,
        0,
        u8::from(is_answered),
        0,
        0,
        0,
        0,
    ]);
    answer.extend(question);
    if is_answered {
        // The name in the question; an address, of the internet, for 60 s, of four bytes.
        answer.extend([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
    }
    answer
}
