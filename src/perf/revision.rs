//! Building another revision of the repository, to be compared with.
//!
//! Runs on the main thread. It is checked out and built below `target/`, and kept there by its commit. What is measured
//! is built with the profile `dist`, where that revision has it; before, `release` was what it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::fault::PerfFault;

/// Where builds of other revisions are kept: beside our own.
///
/// # Errors
/// [`PerfFault`]: the revision is unknown, or does not build.
pub fn build_revision(revision: &str) -> Result<PathBuf, PerfFault> {
    let run = |words: &[&str], what: &str| -> Result<String, PerfFault> {
        let output = Command::new(words[0]).args(&words[1..]).output();
        let output = output
            .map_err(|error| PerfFault::new(format_args!("{what}: `{}` cannot be run: {error}", words[0])))?;
        if !output.status.success() {
            return Err(PerfFault::new(format_args!(
                "{what}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            )));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = run(
        &["git", "rev-parse", "--verify", "--quiet", &format!("{revision}^{{commit}}")],
        &format!("--base {revision}: there is no such revision here"),
    )?;
    let top = PathBuf::from(run(&["git", "rev-parse", "--show-toplevel"], "--base needs a git repository")?);
    let directory = top.join("target").join("perf-base");
    let kept = directory.join(&commit);
    if kept.is_file() {
        return Ok(kept);
    }
    let worktree = directory.join("worktree");
    let tree = worktree.display().to_string();
    let begin = Instant::now();
    let _ = run(&["git", "worktree", "remove", "--force", &tree], "");
    run(&["git", "worktree", "add", "--detach", "--force", &tree, &commit], "cannot check the base out")?;
    let target = directory.join("target").display().to_string();
    let manifest = worktree.join("Cargo.toml").display().to_string();
    let profile = measured_profile(&fs::read_to_string(&manifest).unwrap_or_default());
    let built = run(
        &[
            "cargo",
            "build",
            "--profile",
            profile,
            "--quiet",
            "--bin",
            "redbreast",
            "--manifest-path",
            &manifest,
            "--target-dir",
            &target,
        ],
        &format!("--base {revision} does not build"),
    );
    run(&["git", "worktree", "remove", "--force", &tree], "cannot remove the base's worktree")?;
    built?;
    fs::copy(Path::new(&target).join(profile).join("redbreast"), &kept)
        .map_err(|error| PerfFault::new(format_args!("cannot keep the base's build: {error}")))?;
    tracing::info!("built {revision} in {:.0} s", begin.elapsed().as_secs_f64());
    Ok(kept)
}

/// The profile that a revision with this manifest is measured with.
fn measured_profile(manifest: &str) -> &'static str {
    if manifest.lines().any(|line| line.trim() == "[profile.dist]") { "dist" } else { "release" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_measured_with_the_profile_that_it_has_for_that() {
        let ours = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
        assert_eq!(measured_profile(&ours), "dist");
        assert_eq!(measured_profile("[profile.release]\nlto = \"fat\"\n# not [profile.dist]\n"), "release");
    }
}
