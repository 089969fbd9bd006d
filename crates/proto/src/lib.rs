//! Protobuf messages of every channel, and the only conversions between them and the model.
