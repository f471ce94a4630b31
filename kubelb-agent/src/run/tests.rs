use std::path::PathBuf;

use super::*;

fn detach_says(bpffs: PathBuf) -> anyhow::Result<String> {
    let mut out = Vec::new();
    detach(&DetachArgs { bpffs }, &mut out)?;
    Ok(String::from_utf8(out)?)
}

#[test]
fn detaching_where_nothing_was_is_no_error() {
    let directory = tempfile::tempdir().unwrap();
    let none = directory.path().join("none");
    let text = detach_says(none.clone()).unwrap();
    assert_eq!(
        text,
        format!("{}: no such directory; nothing was pinned\n", none.display())
    );
}

#[test]
fn detaching_from_an_ordinary_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let error = detach_says(directory.path().to_owned()).unwrap_err();
    assert!(format!("{error:#}").ends_with(": not a bpffs"), "{error:#}");
}

#[test]
fn the_status_of_nothing_is_an_error_that_says_so() {
    let directory = tempfile::tempdir().unwrap();
    for bpffs in [directory.path().to_owned(), directory.path().join("none")] {
        let args = StatusArgs {
            state_dir: bpffs.join("none"),
            bpffs,
            output: OutputFormat::Json,
        };
        let mut out = Vec::new();
        let error = status(&args, &mut out).unwrap_err();
        assert!(
            error.to_string().ends_with("no kubelb-agent has pinned anything here"),
            "{error}"
        );
        assert_eq!(out, [0u8; 0]);
    }
}
