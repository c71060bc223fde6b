"""Commands about running a node for long: doctor, service, pause and resume, completion."""
