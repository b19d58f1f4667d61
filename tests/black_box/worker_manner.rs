//! How workers wait and where they run: `serve --busy-poll`, `--cpus`, `--steer-by-cpu`, `--realtime`.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use redbreast::worker::may_go_first;

use crate::harness::{PATIENCE, Server, ask, query, run, wait_until};

fn names(directory: &Path) -> String {
    let file = directory.join("names");
    fs::write(&file, "10.0.0.1 web\n").unwrap();
    file.to_str().unwrap().to_owned()
}

/// The worker threads of a server, by their directories in /proc.
fn workers(server: &Server) -> Vec<PathBuf> {
    let tasks = fs::read_dir(format!("/proc/{}/task", server.child.id())).unwrap();
    let tasks = tasks.map(|task| task.unwrap().path());
    let mut workers: Vec<_> = tasks
        .filter(|task| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with("worker")))
        .collect();
    workers.sort();
    workers
}

/// Nanoseconds that a thread has run, and waited for a CPU.
fn ready_ns(task: &Path) -> u64 {
    let text = fs::read_to_string(task.join("schedstat")).unwrap();
    text.split_whitespace().take(2).map(|ns| ns.parse::<u64>().unwrap()).sum()
}

/// The share of the time in which the server's first worker runs, or would if it had a CPU.
fn readiness(server: &Server) -> f64 {
    let task = &workers(server)[0];
    let (before, begin) = (ready_ns(task), Instant::now());
    thread::sleep(Duration::from_millis(400));
    (ready_ns(task) - before) as f64 / begin.elapsed().as_nanos() as f64
}

#[test]
fn a_worker_that_looks_all_the_time_answers_reloads_and_stops_like_any_other() {
    let directory = tempfile::tempdir().unwrap();
    let names = names(directory.path());
    for busy_poll in ["--busy-poll", "--busy-poll=300", "--busy-poll=1000000"] {
        let server = Server::start(&["--names", &names, "--workers", "1", busy_poll]);
        let client = server.client();
        let packet = query(7, "web.redbreast.internal", 1);
        for _ in 0..200 {
            assert_eq!(ask(&client, &packet)[7], 1, "{busy_poll}");
        }
        let mut stream = TcpStream::connect(server.address).unwrap();
        let framed = [&u16::try_from(packet.len()).unwrap().to_be_bytes()[..], &packet].concat();
        stream.write_all(&framed).unwrap();
        let mut answer = [0; 10];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer[2..4], [0, 7], "{busy_poll}: over TCP");
        fs::write(&names, "10.0.0.1 web\n10.0.0.2 more\n").unwrap();
        let more = query(8, "more.redbreast.internal", 1);
        wait_until("the file was read again", || ask(&client, &more)[7] == 1);
        fs::write(&names, "10.0.0.1 web\n").unwrap();
        assert!(server.stop().contains("stopped; counted: positive"), "{busy_poll}");
    }
}

#[test]
fn it_sleeps_when_it_has_looked_long_enough() {
    let directory = tempfile::tempdir().unwrap();
    let names = names(directory.path());
    let start = |more: &[&str]| {
        let server = Server::start(&[&["--names", &names, "--workers", "1"], more].concat());
        ask(&server.client(), &query(7, "web.redbreast.internal", 1));
        server
    };
    assert!(readiness(&start(&["--busy-poll"])) > 0.9, "always");
    for more in [&["--busy-poll=20000"][..], &["--busy-poll=0"], &[]] {
        let server = start(more);
        thread::sleep(Duration::from_millis(100));
        let share = readiness(&server);
        assert!(share < 0.2, "{more:?}: {share}");
    }
}

/// The addresses that a server says that it listens at.
fn listening(server: &Server) -> Vec<SocketAddr> {
    let log = server.log();
    let told = log.split("listening on ").skip(1).filter_map(|rest| rest.split_whitespace().next());
    told.map(|address| address.parse().unwrap()).collect()
}

#[test]
fn it_looks_no_longer_for_having_several_listeners() {
    const LISTENERS: usize = 16;
    const BUSY_POLL: Duration = Duration::from_millis(200);
    let directory = tempfile::tempdir().unwrap();
    let names = names(directory.path());
    let busy_poll = format!("--busy-poll={}", BUSY_POLL.as_micros());
    let mut args = vec!["--names", &names, "--workers", "1", &busy_poll];
    (1..LISTENERS).for_each(|_| args.extend(["--listen", "127.0.0.1:0"]));
    let server = Server::start(&args);
    let addresses = listening(&server);
    assert_eq!(addresses.len(), LISTENERS);
    let task = &workers(&server)[0];
    let before = ready_ns(task);
    let client = server.client();
    for address in addresses {
        client.connect(address).unwrap();
        assert_eq!(ask(&client, &query(7, "web.redbreast.internal", 1))[7], 1);
    }
    // Until it sleeps, however busy the machine is.
    let mut last = before;
    wait_until("it sleeps", || {
        thread::sleep(BUSY_POLL / 2);
        std::mem::replace(&mut last, ready_ns(task)) == last
    });
    let looked = Duration::from_nanos(last - before);
    assert!(looked >= BUSY_POLL / 2, "it has looked: {looked:?}");
    assert!(looked < 4 * BUSY_POLL, "once for all {LISTENERS} listeners, not once for each: {looked:?}");
}

#[test]
fn it_serves_connections_while_one_of_several_listeners_is_never_idle() {
    let directory = tempfile::tempdir().unwrap();
    let names = names(directory.path());
    let server =
        Server::start(&["--names", &names, "--workers", "1", "--busy-poll", "--listen", "127.0.0.1:0"]);
    let other = listening(&server)[1];
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let (client, packet) = (server.client(), query(7, "web.redbreast.internal", 1));
                while !done.load(Ordering::Relaxed) {
                    // What does not fit into its queue is lost.
                    let _ = client.send(&packet);
                }
            });
        }
        let packet = query(9, "web.redbreast.internal", 1);
        let framed = [&[0, u8::try_from(packet.len()).unwrap()], &packet[..]].concat();
        let ask = || -> std::io::Result<[u8; 10]> {
            let mut stream = TcpStream::connect(other)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(&framed)?;
            let mut answer = [0; 10];
            stream.read_exact(&mut answer)?;
            Ok(answer)
        };
        let answers: Vec<_> = (0..20).map(|_| ask()).collect();
        done.store(true, Ordering::Relaxed);
        answers.iter().for_each(|answer| assert_eq!(answer.as_ref().unwrap()[2..4], [0, 9]));
    });
}

#[test]
fn workers_run_on_the_cpus_that_they_are_given() {
    let allowed = fs::read_to_string("/proc/self/status").unwrap();
    let allowed =
        allowed.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim().to_owned();
    let last = allowed.rsplit([',', '-']).next().unwrap().to_owned();
    let directory = tempfile::tempdir().unwrap();
    let names = names(directory.path());
    for more in [&[][..], &["--steer-by-cpu"]] {
        let server = Server::start(&[&["--names", &names, "--cpus", &last], more].concat());
        wait_until("the worker is there", || workers(&server).len() == 1);
        let on = || fs::read_to_string(workers(&server)[0].join("status")).unwrap();
        wait_until("it is on its CPU", || on().contains(&format!("Cpus_allowed_list:\t{last}\n")));
        assert_eq!(ask(&server.client(), &query(7, "web.redbreast.internal", 1))[7], 1);
    }
    let server = Server::start(&["--names", &names, "--cpus", &allowed, "--steer-by-cpu"]);
    for _ in 0..50 {
        // From a port of its own each, so that the hash would spread them.
        assert_eq!(ask(&server.client(), &query(7, "web.redbreast.internal", 1))[7], 1);
    }
}

#[test]
fn workers_go_before_others_if_they_are_to_and_may() {
    let directory = tempfile::tempdir().unwrap();
    let names = names(directory.path());
    if may_go_first().is_err() {
        let output = run(&["serve", "--listen", "127.0.0.1:0", "--names", &names, "--realtime"]);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && errors.contains("CAP_SYS_NICE"), "{errors}");
        return;
    }
    let server = Server::start(&["--names", &names, "--workers", "2", "--realtime"]);
    wait_until("the workers are there", || workers(&server).len() == 2);
    // The policy is the 41st field; the first behind the name, which may have anything in it, is the third.
    let policy = |thread: &Path| {
        let stat = fs::read_to_string(thread.join("stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1.split(' ').nth(41 - 3).unwrap().to_owned()
    };
    wait_until("they go first", || workers(&server).iter().all(|worker| policy(worker) == "1"));
    let main = PathBuf::from(format!("/proc/{0}/task/{0}", server.child.id()));
    assert_eq!(policy(&main), "0", "no other thread does");
    assert_eq!(ask(&server.client(), &query(7, "web.redbreast.internal", 1))[7], 1);
}

#[test]
fn what_is_no_cpu_and_no_time_is_refused() {
    for (args, said) in [
        (&["--cpus", "99999"][..], "99999"),
        (&["--cpus", "1023"], "CPU 1023 is not there"),
        (&["--cpus", "1-0"], "no range"),
        (&["--cpus", "one"], "no CPU's number"),
        (&["--steer-by-cpu"], "--cpus"),
        (&["--busy-poll=fast"], "expected microseconds"),
        (&["--busy-poll", "--realtime"], "cannot be used with"),
        (&["--busy-poll=1000001"], "expected microseconds"),
    ] {
        let output = run(&[&["serve", "--listen", "127.0.0.1:0"], args].concat());
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {errors}");
        assert!(errors.contains(said), "{args:?}: {errors}");
    }
}
