"""EncCluster: a mean of clustered or quantised changes, of which only the sum is opened."""
