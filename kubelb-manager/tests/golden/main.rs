//! Objects through every step, compared with what was right before: `<case>/in.yaml` in, `ir.yaml`, `xds.yaml` and
//! `status.yaml` out.
//!
//! `KUBELB_BLESS=1 cargo test -p kubelb-manager --test golden` writes the outputs anew; what changed is then seen in the diff.

#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of this is test code"
)]

mod message;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kubelb_manager::object::{Kind, Object, ObjectName};
use kubelb_manager::source::manifest;
use kubelb_manager::status::{Health, Problems, Report, Reports};
use kubelb_manager::store::Store;
use kubelb_manager::{allocate, ir, status, xds};
use kubelb_xds::ResourceType;
use serde::Serialize;

const NAMESPACE: &str = "kubelb";

#[test]
fn every_case_gives_what_it_gave() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let entries = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path());
    let mut cases: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    cases.sort();
    assert!(cases.len() >= 20, "cases are missing");
    let bless = std::env::var_os("KUBELB_BLESS").is_some();
    let mut wrong = Vec::new();
    for case in cases {
        for (file, text) in outputs(&case) {
            let path = case.join(file);
            if bless {
                fs::write(&path, text).unwrap();
            } else if fs::read_to_string(&path).unwrap_or_default() != text {
                wrong.push(format!("{} is not\n{text}", path.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "KUBELB_BLESS=1 writes the files anew, if this is right:\n{}",
        wrong.join("\n")
    );
}

fn outputs(case: &Path) -> Vec<(&'static str, String)> {
    let text = fs::read_to_string(case.join("in.yaml")).unwrap();
    let manifest = manifest::read(&text, |_| {});
    assert!(!manifest.is_incomplete, "{}: {:?}", case.display(), manifest.faults);
    let mut store = Store::default();
    for entry in manifest.entries {
        store.apply(entry.seen);
    }
    let plan = allocate::plan(&store, NAMESPACE, allocate::Given::Held);
    for name in &plan.delete {
        store.delete(&kubelb_manager::object::ObjectKey::new(
            Kind::AddressClaim,
            "",
            &name.to_string(),
        ));
    }
    for claim in plan.write {
        store.apply(Ok(Object::AddressClaim(claim.into())));
    }
    let (ir, mut problems) = ir::build(&store, NAMESPACE);
    problems.extend(plan.problems);
    let mut by_object = Problems::new();
    for problem in problems {
        by_object.entry(problem.object.clone()).or_default().push(problem);
    }
    let objects: BTreeSet<_> = Kind::ALL.iter().flat_map(|kind| store.keys(*kind)).collect();
    let now = Time("2026-01-01T00:00:00Z".parse().unwrap());
    let view = status::View {
        store: &store,
        ir: &ir,
        problems: &by_object,
        reports: &reports(&store),
        given: allocate::Given::Held,
    };
    let patches = status::compute(&view, objects, &now);
    let claims: Vec<_> = store.address_claims().values().map(|claim| &claim.spec).collect();
    let problems: Vec<_> = by_object.into_values().flatten().collect();

    #[derive(Serialize)]
    struct Shown<'a> {
        ir: &'a ir::Ir,
        claims: Vec<&'a kubelb_api::v1alpha1::AddressClaimSpec>,
        problems: Vec<kubelb_manager::problem::Problem>,
    }
    let shown = Shown {
        ir: &ir,
        claims,
        problems,
    };
    vec![
        ("ir.yaml", yaml(&shown)),
        ("xds.yaml", yaml(&resources(&ir))),
        ("status.yaml", yaml(&patches)),
    ]
}

fn resources(ir: &ir::Ir) -> Vec<serde_json::Value> {
    let snapshot = xds::translate(ir);
    let kinds = ResourceType::ALL.into_iter();
    let all = kinds.flat_map(|kind| snapshot.table(kind).values().cloned().collect::<Vec<_>>());
    all.map(|resource| {
        let for_whom = format!("{:?} of {:?}", resource.audience(), resource.owner());
        serde_json::json!({"for": for_whom, "resource": message::show(&resource.any_bytes())})
    })
    .collect()
}

/// One agent and no Envoy; every object is served and has two endpoints, of which one is healthy.
fn reports(store: &Store) -> Reports {
    let report = Report {
        programmed: 1,
        health: Some(Health {
            healthy: 1,
            checked: 2,
            disputed: 0,
        }),
        ..Report::default()
    };
    let names: Vec<ObjectName> = store.load_balancers().keys().cloned().collect();
    Reports {
        agents: 1,
        load_balancers: names.into_iter().map(|name| (name, report.clone())).collect(),
        ..Reports::default()
    }
}

fn yaml(value: &impl Serialize) -> String {
    // By way of a tree whose maps are sorted and whose keys are text.
    serde_saphyr::to_string(&serde_json::to_value(value).unwrap()).unwrap()
}
