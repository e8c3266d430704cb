"""The tests of the conformance suite, by topic. `dodici.testing.conformance` puts them together."""
