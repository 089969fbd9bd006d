//! What `docs/telemetry.md` shows is understood as it stands there.

use ambit_translate::telemetry::{self, TelemetryFacts};
use ambit_translate::{Mesh, mesh_config};
use serde_json::Value;

const PAGE: &str = include_str!("../../../docs/telemetry.md");

#[test]
fn every_block_is_understood() {
    let mut kinds = [0, 0];
    let blocks = PAGE.split("```yaml\n").skip(1);
    for block in blocks.map(|block| block.split("```").next().unwrap()) {
        let value: Value = serde_saphyr::from_str(block).unwrap();
        if value["kind"] == "Telemetry" {
            let facts = TelemetryFacts::of(&serde_json::from_value(value).unwrap());
            let translation = telemetry::translate(&Mesh::default(), &facts);
            assert_eq!(translation.findings, [], "{block}");
            assert!(translation.telemetry.is_some(), "{block}");
            kinds[0] += 1;
        } else {
            let (config, findings) = mesh_config::parse(block);
            assert_eq!(findings, [], "{block}");
            let config = config.unwrap();
            let used = !config.logs.is_empty() || config.tracing.provider.is_some();
            assert!(used, "{block}");
            kinds[1] += 1;
        }
    }
    assert_eq!(kinds, [3, 3]);
}
