"""Published masks as a check: what papers print, what this program measures, and what explains the gap."""
