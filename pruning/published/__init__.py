"""Published masks as referee: what papers print, what is measured here, and what explains the gap."""
