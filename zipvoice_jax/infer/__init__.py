"""Generation: from requests to waves, in buckets, with reports and pictures."""
