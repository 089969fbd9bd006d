//! The list of scenarios, run side by side on one node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::{kubectl, lives, streams, workloads};

type Scenario = fn(Arc<Cluster>) -> tokio::task::JoinHandle<()>;

macro_rules! scenarios {
    ($($path:path),* $(,)?) => {
        [$((stringify!($path), (|cluster| tokio::spawn(async move { $path(&cluster).await })) as Scenario)),*]
    };
}

/// Runs all scenarios whose name contains the filter; true if all passed.
pub async fn run(filter: Option<String>) -> bool {
    let cluster = Arc::new(Cluster::start().await);
    workloads::node_is_ready(&cluster).await;
    let all = scenarios![
        workloads::a_pod_from_start_to_end,
        workloads::environment_and_names,
        workloads::volumes_follow_their_sources,
        workloads::users_capabilities_and_read_only_roots,
        workloads::init_containers_run_in_order,
        workloads::an_ended_container_starts_again,
        workloads::pods_that_finish,
        workloads::an_unknown_image_says_what_there_is,
        workloads::a_missing_config_map_stops_the_pod,
        workloads::probes_decide_readiness_and_life,
        workloads::host_network_pods_share_the_nodes,
        workloads::a_lost_sandbox_is_made_again,
        workloads::a_condition_that_others_changed_is_put_right,
        workloads::termination_messages_and_grace,
        lives::sidecars_start_in_order_and_end_last,
        lives::a_post_start_hook_holds_the_next_container,
        lives::a_pod_may_be_active_for_so_long,
        lives::containers_can_be_added_to_look_around,
        lives::the_first_client_sees_what_was_printed_before_it_came,
        lives::volumes_follow_the_pods_labels,
        lives::a_deleted_pod_that_is_held_shows_how_it_ended,
        lives::a_pod_that_is_ending_still_tells_whether_it_serves,
        streams::logs_with_options,
        streams::exec_with_input_output_and_status,
        streams::port_forwarding_reaches_loopback,
        streams::only_the_api_server_is_served,
        kubectl::streams_of_every_version,
    ];
    let wanted = |name: &str| {
        filter
            .as_ref()
            .is_none_or(|filter| name.contains(filter.as_str()))
    };
    let running: Vec<_> = all
        .into_iter()
        .filter(|(name, _)| wanted(name))
        .map(|(name, scenario)| (name, Instant::now(), scenario(cluster.clone())))
        .collect();
    let mut failed = Vec::new();
    let count = running.len();
    for (name, since, task) in running {
        let outcome = tokio::time::timeout(Duration::from_secs(300), task).await;
        let passed = matches!(outcome, Ok(Ok(())));
        println!(
            "test {name} ... {} ({:.1} s)",
            if passed { "ok" } else { "FAILED" },
            since.elapsed().as_secs_f32()
        );
        if !passed {
            failed.push(name);
        }
    }
    // The network's configuration belongs to all pods, so this one runs alone.
    if wanted("a_failing_network_stops_the_pod") {
        let task = {
            let cluster = cluster.clone();
            tokio::spawn(async move { workloads::a_failing_network_stops_the_pod(&cluster).await })
        };
        let passed = task.await.is_ok();
        println!(
            "test workloads::a_failing_network_stops_the_pod ... {}",
            if passed { "ok" } else { "FAILED" }
        );
        if !passed {
            failed.push("workloads::a_failing_network_stops_the_pod");
        }
    }
    let cluster = Arc::into_inner(cluster).expect("all scenarios have ended");
    let clean = workloads::nothing_is_left(cluster).await;
    println!(
        "test workloads::nothing_is_left ... {}",
        if clean.is_ok() { "ok" } else { "FAILED" }
    );
    if let Err(problem) = &clean {
        println!("{problem}");
        failed.push("nothing_is_left");
    }
    println!(
        "\ntest result: {}. {} passed; {} failed",
        if failed.is_empty() { "ok" } else { "FAILED" },
        count + 2 - failed.len(),
        failed.len()
    );
    failed.is_empty()
}
