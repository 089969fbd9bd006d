//! The final status of a session, as a `Status` object on the error channel. Pure.

use bytes::Bytes;
use serde_json::json;

use crate::kubelet::process::Exit;

/// The command ended.
pub(crate) fn exit(exit: Exit) -> Bytes {
    if exit.code == 0 {
        return success();
    }
    let text = json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("command terminated with non-zero exit code: exit status {}", exit.code),
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": exit.code.to_string()}]},
    });
    text.to_string().into()
}

/// The session ended well.
pub(crate) fn success() -> Bytes {
    json!({"metadata": {}, "status": "Success"})
        .to_string()
        .into()
}

/// The command could not be run.
pub(crate) fn failure(message: &str) -> Bytes {
    let text = json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("Internal error occurred: error executing command in container: {message}"),
        "reason": "InternalError",
        "details": {"causes": [{"message": message}]},
        "code": 500,
    });
    text.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_travel_as_causes() {
        let value: serde_json::Value =
            serde_json::from_slice(&exit(Exit { code: 3, signal: 0 })).unwrap();
        assert_eq!(value["reason"], "NonZeroExitCode");
        assert_eq!(
            value["details"]["causes"][0],
            json!({"reason": "ExitCode", "message": "3"})
        );
        let value: serde_json::Value =
            serde_json::from_slice(&exit(Exit { code: 0, signal: 0 })).unwrap();
        assert_eq!(value["status"], "Success");
    }
}
