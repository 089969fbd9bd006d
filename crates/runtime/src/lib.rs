//! What every process shares: logs, metrics, admin and readiness servers, drain, signals, configuration, build info.
