"""Telemetry: what a node has done, in the words of OpenTelemetry."""
