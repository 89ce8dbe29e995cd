"""The proof: tests that judge a server, from outside and from inside."""
