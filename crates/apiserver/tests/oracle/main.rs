//! The same requests to our server and to the real one, with the same answers.
//!
//! `cases/AREA.yaml` has the requests, `recorded/AREA.json` what a real Kubernetes answered, without
//! what differs from run to run (`normalize`). An ordinary test run sends the requests to our server
//! and compares the whole answers; `differences.yaml` lists where they may differ, each with its
//! reason, and an entry that is not needed fails. `make kube-api` sends them to the real server
//! (`ORACLE_KUBECONFIG`) and compares, too, so that the recorded answers stay true; with `RECORD=1`
//! it writes them anew.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod area;
mod case;
mod compare;
mod events;
mod normalize;
mod run;
mod target;
mod upstream;
mod variables;

macro_rules! areas {
    ($($name:ident),* $(,)?) => {
        const AREAS: &[&str] = &[$(stringify!($name)),*];
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                area::check(stringify!($name)).await;
            }
        )*
    };
}

areas! {
    access,
    admission,
    apply,
    crds,
    custom,
    defaults,
    deletion,
    dry_run,
    errors,
    json_patch,
    listing,
    merge_patch,
    strategic_merge,
    subresources,
    upstream_crds,
    validation,
    versions,
    watching,
}

#[test]
fn every_file_belongs_to_an_area() {
    for (folder, extension) in [("cases", "yaml"), ("recorded", "json")] {
        let mut files: Vec<String> = std::fs::read_dir(case::folder().join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let mut areas: Vec<String> = AREAS.iter().map(|a| format!("{a}.{extension}")).collect();
        areas.sort();
        assert_eq!(files, areas, "{folder}");
    }
}
