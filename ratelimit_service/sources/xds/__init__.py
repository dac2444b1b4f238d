"""Rules over xDS: control planes that send them as resources (docs/xds.md)."""
