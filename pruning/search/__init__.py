"""Run a search: answer its requests, journal every score, stop at a budget, race candidates, test margins."""
