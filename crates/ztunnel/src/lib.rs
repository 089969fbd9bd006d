//! The node proxy: captures the traffic of enrolled pods and carries it over HBONE.
