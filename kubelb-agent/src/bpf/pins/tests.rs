use super::*;

fn touch(path: PathBuf) -> PathBuf {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, []).unwrap();
    path
}

#[test]
fn what_is_not_on_a_bpffs_is_neither_used_nor_removed() {
    let directory = tempfile::tempdir().unwrap();
    let file = touch(directory.path().join("v1/maps/CONTROL"));
    for error in [
        PinDirectory::open(directory.path()).map(drop).unwrap_err(),
        Removal::begin(directory.path()).map(drop).unwrap_err(),
    ] {
        let text = kubelb_runtime::error_chain::chain(&error).to_string();
        assert!(text.contains("not a bpffs"), "{text}");
        assert!(text.contains(directory.path().to_str().unwrap()), "{text}");
    }
    assert!(file.exists());
}

#[test]
fn where_there_is_no_directory_there_is_nothing_to_remove() {
    let directory = tempfile::tempdir().unwrap();
    assert!(Removal::begin(&directory.path().join("none")).unwrap().is_none());
}

#[test]
fn nothing_pinned_is_said_so() {
    let directory = tempfile::tempdir().unwrap();
    for path in [directory.path().to_owned(), directory.path().join("none")] {
        let error = existing_maps(&path).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{}: no kubelb-agent has pinned anything here", path.display())
        );
    }
    let maps = touch(directory.path().join(format!("v{ABI_VERSION}/maps/CONTROL")));
    assert_eq!(existing_maps(directory.path()).unwrap(), maps.parent().unwrap());
}

#[test]
fn a_directory_that_cannot_be_read_is_not_an_empty_one() {
    let directory = tempfile::tempdir().unwrap();
    let file = touch(directory.path().join("file"));
    let error = existing_maps(&file).unwrap_err();
    assert!(matches!(error, BpfError::Directory { .. }), "{error}");
}

#[test]
fn pins_of_all_versions_go_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| touch(directory.path().join(name));
    let mut pins = [at("v1/links/eth0:2:tcx"), at("v1/maps/CONTROL"), at("v12/maps/FLOWS")];
    let others = [at("vault/maps/CONTROL"), at("maps/CONTROL"), at("readme")];
    fs::create_dir_all(directory.path().join("v13/links")).unwrap();
    pins.sort();
    assert_eq!(remove_below(directory.path()).unwrap(), pins);
    assert!(others.iter().all(|path| path.exists()));
    assert!(
        ["v1", "v12", "v13"]
            .iter()
            .all(|root| !directory.path().join(root).exists())
    );
    assert_eq!(remove_below(directory.path()).unwrap(), Vec::<PathBuf>::new());
}

#[test]
fn a_directory_in_use_is_seen_by_any_number_of_lookers_and_refused_to_a_second_agent() {
    let directory = tempfile::tempdir().unwrap();
    assert!(!is_held(directory.path()), "nobody runs");
    let looking = try_lock(directory.path(), FlockArg::LockSharedNonblock).unwrap();
    assert!(!is_held(directory.path()), "a `status` elsewhere is no agent");
    drop(looking);
    let agent = lock(directory.path()).unwrap();
    assert!(is_held(directory.path()) && is_held(directory.path()));
    let second = try_lock(directory.path(), FlockArg::LockExclusiveNonblock)
        .map(drop)
        .unwrap_err();
    assert!(matches!(second, BpfError::Locked { .. }), "{second}");
    drop(agent);
    assert!(!is_held(directory.path()));
}

#[test]
fn the_lock_waits_for_one_that_is_given_up_soon() {
    let directory = tempfile::tempdir().unwrap();
    let ending = lock(directory.path()).unwrap();
    thread::scope(|scope| {
        let next = scope.spawn(|| lock(directory.path()).map(drop));
        drop(ending);
        next.join().unwrap().unwrap();
    });
}

#[test]
fn links_are_found_by_the_names_of_their_pins() {
    let directory = tempfile::tempdir().unwrap();
    let names = [
        "eth0:2:tcx",
        "eth0%2e100:3:xdp",
        "br%25:4:generic",
        "eth0:x:tcx",
        "eth0:2:other",
        "eth0",
    ];
    for name in names {
        touch(directory.path().join("links").join(name));
    }
    let found: Vec<_> = links_of(directory.path())
        .unwrap()
        .into_iter()
        .map(|link| (link.interface, link.ifindex, link.kind))
        .collect();
    let expected = [
        ("br%", 4, LinkKind::Generic),
        ("eth0", 2, LinkKind::Tcx),
        ("eth0.100", 3, LinkKind::Xdp),
    ];
    assert_eq!(
        found,
        expected.map(|(name, index, kind)| (name.to_owned(), index, kind))
    );
}

#[test]
fn any_interface_name_survives_the_name_of_its_pin() {
    for name in ["eth0", "eth0.100", "a:b", "100%", "%2e", "x%3a.y:%25"] {
        assert!(!escape(name).contains(['.', ':']), "{name}");
        assert_eq!(unescape(&escape(name)), name);
    }
}
