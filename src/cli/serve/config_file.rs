//! The configuration file of `redbreast serve`: its flags, as keys of a TOML file.
//!
//! Runs on the main thread, and on the thread for signals when the file is read again. A key is what the flag is
//! without the dashes in front, and goes the same way: so whatever can be said by a flag can be said here, with the
//! same checks.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgAction, CommandFactory, FromArgMatches};
use toml::de::{DeTable, DeValue};

use super::super::{Cli, Failure};
use super::Args;
use crate::sys::file_error::{self, FileError};

/// Flags that make no sense in the file.
const NOT_HERE: [&str; 2] = ["config", "until-eof"];

/// A key of the file, with the flags that say the same.
struct FileKey {
    line: usize,
    key: String,
    flags: Vec<OsString>,
}

/// The arguments that a command line, which names a configuration file, and that file say together.
pub(super) fn merged(command_line: impl Iterator<Item = OsString>) -> Result<Args, Failure> {
    let mut command_line: Vec<_> = command_line.collect();
    let matches = Cli::command().try_get_matches_from(&command_line).map_err(Failure::usage)?;
    let serve = matches.subcommand_matches("serve");
    let Some((serve, file)) = serve.and_then(|serve| Some((serve, serve.get_one::<PathBuf>("config")?)))
    else {
        return Err(Failure::usage("no --config was given"));
    };
    let given = |key: &str| serve.value_source(&key.replace('-', "_")) == Some(ValueSource::CommandLine);
    // A flag goes before the file.
    let entries = read(file).map_err(Failure::usage)?.into_iter().filter(|entry| !given(&entry.key));
    command_line.extend(entries.flat_map(|entry| entry.flags));
    parse(&command_line).map_err(|error| Failure::usage(FileError::of(file, told(&error))))
}

/// What a file says by itself.
pub(in super::super) fn alone(file: &Path) -> Result<Args, Failure> {
    let entries = read(file).map_err(Failure::usage)?;
    let flags = entries.into_iter().flat_map(|entry| entry.flags);
    let command_line: Vec<_> = ["redbreast", "serve"].map(OsString::from).into_iter().chain(flags).collect();
    parse(&command_line).map_err(|error| Failure::usage(FileError::of(file, told(&error))))
}

fn parse(command_line: &[OsString]) -> Result<Args, clap::Error> {
    let matches = Cli::command().try_get_matches_from(command_line)?;
    let serve = matches.subcommand_matches("serve").expect("it is `serve` that has a file");
    Args::from_arg_matches(serve)
}

/// The keys of a file, each with a value that its flag takes.
fn read(file: &Path) -> Result<Vec<FileKey>, FileError> {
    let bytes = file_error::read(file, "configuration")?;
    let text =
        str::from_utf8(&bytes).map_err(|error| FileError::of(file, format_args!("is no text: {error}")))?;
    let line_of = |at: usize| 1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count();
    let table = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(span.start));
        FileError::at(file, line, error.message())
    })?;
    let mut entries = Vec::new();
    for (key, value) in table.into_inner() {
        let line = line_of(key.span().start);
        let key = key.into_inner().into_owned();
        let flags = flags(&key, value.into_inner()).map_err(|why| FileError::at(file, line, why))?;
        check(&flags).map_err(|why| FileError::at(file, line, format_args!("{key}: {why}")))?;
        entries.push(FileKey { line, key, flags });
    }
    entries.sort_by_key(|entry| entry.line);
    Ok(entries)
}

/// The flags that say the same as a key with this value.
fn flags(key: &str, value: DeValue<'_>) -> Result<Vec<OsString>, String> {
    let serve = Cli::command();
    let serve = serve.find_subcommand("serve").expect("there is `serve`");
    let flag = serve.get_arguments().find(|flag| flag.get_long() == Some(key) && !NOT_HERE.contains(&key));
    let Some(flag) = flag else {
        let known = serve.get_arguments().filter_map(|flag| flag.get_long());
        let near = known.filter(|known| !NOT_HERE.contains(known)).find(|known| is_near(known, key));
        let hint = near.map_or_else(
            || "; the keys are the flags that `redbreast serve --help` lists".into(),
            |near| format!("; do you mean `{near}`?"),
        );
        return Err(format!("there is no key `{key}`{hint}"));
    };
    let takes_value = !matches!(flag.get_action(), ArgAction::SetTrue);
    let is_list = matches!(flag.get_action(), ArgAction::Append);
    let said = |value: &str| OsString::from(format!("--{key}={value}"));
    match value {
        DeValue::Boolean(false) if !takes_value => Ok(Vec::new()),
        DeValue::Boolean(true) if !takes_value => Ok(vec![format!("--{key}").into()]),
        // As by the flag without a value, where there can be none.
        DeValue::Boolean(true) if flag.get_num_args().is_some_and(|count| count.min_values() == 0) => {
            Ok(vec![format!("--{key}").into()])
        }
        _ if !takes_value => Err(format!("{key}: expected true or false")),
        DeValue::Array(values) if is_list => {
            let one = |value: toml::Spanned<DeValue<'_>>| {
                let text =
                    scalar(value.get_ref()).ok_or_else(|| format!("{key}: expected a list of texts"))?;
                Ok(said(&text))
            };
            values.into_iter().map(one).collect()
        }
        value => {
            let expected =
                if is_list { "a text, a number, or a list of these" } else { "a text or a number" };
            let text = scalar(&value).ok_or_else(|| format!("{key}: expected {expected}"))?;
            Ok(vec![said(&text)])
        }
    }
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.as_str().replace('_', "")),
        DeValue::Float(number) => Some(number.as_str().replace('_', "")),
        _ => None,
    }
}

/// Whether a key was probably meant: it is the same but for dashes and two letters side by side.
fn is_near(known: &str, key: &str) -> bool {
    let plain = |text: &str| text.replace(['-', '_'], "").to_lowercase();
    let (known, key) = (plain(known), plain(key));
    let same_start = known.bytes().zip(key.bytes()).take_while(|(a, b)| a == b).count();
    let same_end = known.bytes().rev().zip(key.bytes().rev()).take_while(|(a, b)| a == b).count();
    known.len().abs_diff(key.len()) <= 1 && same_start + same_end + 2 >= known.len().max(key.len())
}

/// What is wrong with the values of these flags. What they need beside them may be said elsewhere.
fn check(flags: &[OsString]) -> Result<(), String> {
    let command_line = ["redbreast", "serve"].map(OsString::from).into_iter().chain(flags.iter().cloned());
    match Cli::command().try_get_matches_from(command_line) {
        Err(error)
            if !matches!(error.kind(), ErrorKind::MissingRequiredArgument | ErrorKind::ArgumentConflict) =>
        {
            Err(told(&error))
        }
        _ => Ok(()),
    }
}

/// An error of the command line in one line.
fn told(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let said: Vec<_> =
        lines.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more")).collect();
    said.join("; ").trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("redbreast.toml");
        std::fs::write(&file, text).unwrap();
        (directory, file)
    }

    #[test]
    fn whatever_a_flag_says_a_key_says_too() {
        let (_directory, file) = written(
            "# comment\nlisten = [\"127.0.0.1:0\", \"[::1]:0\"]\nworkers = 3\nhide-identity = true\nttl = 7\n\
             policy = \"web=near\"\nbusy-poll = true\nsteer-by-cpu = false\n",
        );
        let settings = alone(&file).ok().unwrap().settings().ok().unwrap();
        assert_eq!(settings.listen.len(), 2);
        assert_eq!((settings.workers, settings.zone.ttl_s, settings.hide_identity), (3, 7, true));
        assert_eq!(settings.policies.len(), 1);
        assert_eq!(settings.busy_poll, crate::transport::BusyPoll::Always);
        // A flag goes before the file, also where both have lists.
        let config = file.to_str().unwrap();
        let flags = ["redbreast", "serve", "--config", config, "--ttl", "9", "--listen", "127.0.0.1:5"];
        let flags = flags.map(OsString::from);
        let settings = merged(flags.into_iter()).ok().unwrap().settings().ok().unwrap();
        assert_eq!((settings.zone.ttl_s, settings.workers), (9, 3));
        assert_eq!(settings.listen, ["127.0.0.1:5".parse().unwrap()]);
    }

    #[test]
    fn upstreams_are_keys_too() {
        let (_directory, file) = written(
            "upstream = [\"192.0.2.1\", \"tls://192.0.2.2#dns.example\"]\nresolv-conf = true\n\
             forward = [\"corp.example=192.0.2.3,192.0.2.4\", \"lab.example=192.0.2.5:5353\"]\n\
             cache-size = \"128M\"\nmax-stale = 0\ncache-max-ttl = 3_600\nupstream-timeout = 2000\nmix-case = true\n\
             upstream-ca = \"ca.pem\"\n",
        );
        let settings = alone(&file).ok().unwrap().settings().ok().unwrap();
        let files: Vec<_> = settings.files().map(|path| path.display().to_string()).collect();
        assert_eq!(files, ["/etc/resolv.conf", "ca.pem"]);
        let before = settings.resolver.clone().unwrap();
        assert_eq!((before.upstreams.len(), before.forwards.len()), (2, 2));
        assert_eq!((before.cache_bytes, before.max_stale_s, before.max_ttl_s), (128 << 20, 0, 3600));
        // In a running server it is whom it asks that can change.
        let (_directory, file) =
            written("upstream = \"192.0.2.9\"\ncache-size = 67_108_864\nresolv-conf = false\n");
        assert!(alone(&file).is_err(), "resolv-conf takes a file or true");
        let (_directory, file) =
            written("upstream = \"192.0.2.9\"\ncache-size = 67_108_864\nmix-case = true\n");
        let new = alone(&file).ok().unwrap().settings().ok().unwrap();
        assert_eq!(
            settings.fixed_differences(&new),
            ["cache-size", "cache-max-ttl", "max-stale", "upstream-timeout"]
        );
        let mut running = settings.clone();
        running.take_changeable(new);
        let after = running.resolver.unwrap();
        assert_eq!(after.upstreams, ["192.0.2.9".parse().unwrap()]);
        assert_eq!(
            (after.forwards.len(), after.resolv_conf, after.cache_bytes),
            (0, None, before.cache_bytes)
        );
        let (_directory, file) = written("ttl = 1\n");
        let alone = alone(&file).ok().unwrap().settings().ok().unwrap();
        assert_eq!(settings.fixed_differences(&alone), ["the use of upstream, resolv-conf and forward"]);
    }

    #[test]
    fn mistakes_are_told_with_their_lines() {
        for (text, told) in [
            ("listen = [\n", "redbreast.toml:"),
            ("\nlisten = \"here\"\n", ":2: listen: "),
            ("ttl = 1\nworker = 2\n", ":2: there is no key `worker`; do you mean `workers`?"),
            ("data_dir = \"x\"", "do you mean `data-dir`?"),
            ("domian = \"x\"", "do you mean `domain`?"),
            ("zzz = 1", "redbreast serve --help"),
            ("workers = 0", "workers"),
            ("ttl = \"soon\"", ":1: ttl"),
            ("hide-identity = \"yes\"", "expected true or false"),
            ("workers = [1]", "expected a text or a number"),
            ("names = { a = 1 }", "expected a text, a number, or a list"),
            ("config = \"other\"", "there is no key `config`"),
            ("join = [\"a\"]", "--gossip"),
            ("ttl = 1\nupstream = \"dns.example\"", ":2: upstream: "),
            ("cache-size = \"1K\"", ":1: cache-size: "),
            ("forwards = \"a=10.0.0.2\"", "do you mean `forward`?"),
            ("ttl = 1\nttl = 2\n", ":2: duplicate key"),
        ] {
            let (_directory, file) = written(text);
            let failure = alone(&file).err().map(|failure| failure.message).unwrap_or_default();
            assert!(failure.contains(told), "{text}: {failure}");
        }
    }
}
