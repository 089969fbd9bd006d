//! The node agent and its CNI plugin: plan the capture rules, apply them, feed ZDS.
