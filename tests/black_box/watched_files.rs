//! Files that are read again when they change, however the way to them changes: links at its end and in its middle,
//! directories that are swapped, mounts. The same for each kind of file.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::harness::{Server, ask, has, query, redbreast, wait_until};

/// A kind of file.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Names,
    Zone,
    Key,
    ResolvConf,
}

impl Kind {
    fn flag(self) -> &'static str {
        match self {
            Self::Names => "--names",
            Self::Zone => "--zone",
            Self::Key => "--update-key",
            Self::ResolvConf => "--resolv-conf",
        }
    }

    /// A file of the kind that says this number.
    fn write(self, path: &Path, number: usize) {
        let text = match self {
            Self::Names => format!("10.0.0.{number} web\n"),
            Self::Zone => format!("web A 10.0.0.{number}\n"),
            // A key is a secret, but that there is a mistake in a line can be told.
            Self::Key if number > 1 => format!("{}mistake\n", "\n".repeat(number - 1)),
            Self::Key => {
                "key \"one\" { algorithm hmac-sha256; secret \"c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0\"; };\n"
                    .into()
            }
            Self::ResolvConf => format!("nameserver 127.9.0.{number}\n"),
        };
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Whether the server has read a file that says so.
    fn is_read(self, server: &Server, number: usize) -> bool {
        match self {
            Self::Names | Self::Zone => {
                let answer = ask(&server.client(), &query(1, "web.redbreast.internal", 1));
                answer[7] == 1 && usize::from(answer[answer.len() - 1]) == number
            }
            Self::Key => number == 1 || server.log().contains(&format!(":{number}: expected key")),
            Self::ResolvConf => {
                number == 1 || server.log().contains(&format!("asked for at: 127.9.0.{number}\n"))
            }
        }
    }
}

/// `ln` as people use it.
fn ln(options: &str, target: &str, link: &Path) {
    assert!(Command::new("ln").args([options, target]).arg(link).status().unwrap().success());
}

fn follows_the_way(kind: Kind) {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for name in ["v1", "v2", "v3", "stage1", "stage2", "stage3"] {
        fs::create_dir(at(name)).unwrap();
    }
    kind.write(&at("v1/first"), 1);
    symlink("../v1/first", at("stage1/conf")).unwrap();
    symlink("stage1", at("way")).unwrap();
    let path = at("way/conf");
    let flag = format!("{}={}", kind.flag(), path.display());
    let server = Server::start(&["--workers", "1", &flag]);
    let mut number = 1;
    let mut then = |what: &str, change: &dyn Fn(usize)| {
        number += 1;
        change(number);
        let begin = Instant::now();
        wait_until(&format!("{kind:?}: {what} is noticed"), || kind.is_read(&server, number));
        println!("{kind:?}: {what}: {:?}", begin.elapsed());
    };
    then("a target of another name, written in place", &|number| kind.write(&at("v1/first"), number));
    then("a link that is moved by `ln -sf` to a file in another directory", &|number| {
        kind.write(&at("v2/second"), number);
        ln("-sf", "../v2/second", &at("stage1/conf"));
    });
    then("what it leads to now, written in place", &|number| kind.write(&at("v2/second"), number));
    then("another file that is renamed over that", &|number| {
        kind.write(&at("v2/next"), number);
        fs::rename(at("v2/next"), at("v2/second")).unwrap();
    });
    then("a link that is removed and made anew", &|number| {
        fs::remove_file(at("stage1/conf")).unwrap();
        kind.write(&at("v3/third"), number);
        symlink("../v3/third", at("stage1/conf")).unwrap();
    });
    then("a link in the middle that is swapped", &|number| {
        kind.write(&at("stage2/conf"), number);
        ln("-sfn", "stage2", &at("way"));
    });
    then("the file behind that, written in place", &|number| kind.write(&at("stage2/conf"), number));
    then("a directory that is renamed, and another in its place", &|number| {
        kind.write(&at("stage3/conf"), number);
        fs::rename(at("stage2"), at("old")).unwrap();
        fs::rename(at("stage3"), at("stage2")).unwrap();
    });
    then("the file in that, written in place", &|number| kind.write(&at("stage2/conf"), number));
    then("the file removed and written anew", &|number| {
        fs::remove_file(at("stage2/conf")).unwrap();
        kind.write(&at("stage2/conf"), number);
    });
    then("the whole way removed and made anew", &|number| {
        fs::remove_file(at("way")).unwrap();
        fs::remove_dir_all(at("stage2")).unwrap();
        fs::create_dir(at("way")).unwrap();
        kind.write(&at("way/conf"), number);
    });
    // What is no longer on the way is no longer looked at.
    kind.write(&at("v3/third"), 99);
    then("the last of all", &|number| kind.write(&at("way/conf"), number));
    assert!(!kind.is_read(&server, 99), "{}", server.log());
}

#[test]
fn names_files_are_followed_whatever_way_leads_to_them() {
    follows_the_way(Kind::Names);
}

#[test]
fn zone_files_are_followed_whatever_way_leads_to_them() {
    follows_the_way(Kind::Zone);
}

#[test]
fn key_files_are_followed_whatever_way_leads_to_them() {
    follows_the_way(Kind::Key);
}

#[test]
fn resolv_conf_is_followed_whatever_way_leads_to_it() {
    follows_the_way(Kind::ResolvConf);
}

/// A process that holds a mount namespace.
struct Holder(Child);

impl Holder {
    fn new() -> Self {
        let mut holder = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", "echo there && exec sleep 1000"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut there = [0; 5];
        holder.stdout.take().unwrap().read_exact(&mut there).unwrap();
        Self(holder)
    }

    /// A command in the namespace.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &self.0.id().to_string()]).arg(program);
        command
    }

    fn bind(&self, what: &Path, over: &Path) {
        let done = self.command("mount").arg("--bind").args([what, over]).status().unwrap();
        assert!(done.success());
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_single_file_that_is_mounted_is_followed_although_its_directory_makes_no_event() {
    if !has("unshare", &["--mount", "true"]) {
        return;
    }
    for kind in [Kind::Names, Kind::Zone, Kind::Key, Kind::ResolvConf] {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["host", "container"] {
            fs::create_dir(at(name)).unwrap();
        }
        kind.write(&at("host/first"), 1);
        kind.write(&at("host/second"), 3);
        fs::write(at("container/conf"), "").unwrap();
        let holder = Holder::new();
        holder.bind(&at("host/first"), &at("container/conf"));
        let flag = format!("{}={}", kind.flag(), at("container/conf").display());
        let mut command = holder.command(redbreast().get_program());
        command.args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--control",
            "127.0.0.1:0",
            "--workers",
            "1",
            &flag,
        ]);
        let server = Server::spawn(&mut command);
        kind.write(&at("host/first"), 2);
        wait_until(&format!("{kind:?}: the host's file is read"), || kind.is_read(&server, 2));
        // Nothing tells that another file is mounted there.
        holder.bind(&at("host/second"), &at("container/conf"));
        wait_until(&format!("{kind:?}: what is mounted is read"), || kind.is_read(&server, 3));
        kind.write(&at("host/second"), 4);
        wait_until(&format!("{kind:?}: what is mounted now is read"), || kind.is_read(&server, 4));
    }
}

#[test]
fn half_a_file_is_not_read_while_its_writer_pauses() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hosts");
    fs::write(&path, "10.0.0.1 web\n10.0.0.1 more\n").unwrap();
    let server = Server::with_names(&path, &["--workers", "1"]);
    let has = |name: &str, octet: u8| {
        let answer = ask(&server.client(), &query(1, &format!("{name}.redbreast.internal"), 1));
        answer[7] == 1 && answer[answer.len() - 1] == octet
    };
    let mut file = fs::File::create(&path).unwrap();
    std::io::Write::write_all(&mut file, b"10.0.0.2 web\n").unwrap();
    // Longer than it takes to compare the file twice.
    let begin = Instant::now();
    while begin.elapsed().as_secs() < 6 {
        assert!(has("web", 1) && has("more", 1), "half of the file was read");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    std::io::Write::write_all(&mut file, b"10.0.0.2 more\n").unwrap();
    drop(file);
    wait_until("the whole file is read", || has("web", 2) && has("more", 2));
}
