"""Run a search: answer its requests, journal every score, stop at a limit, race candidates, test margins."""
