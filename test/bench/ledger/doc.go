// Package ledger is the work that the benches of throughput have in common: events that book amounts to accounts, a projection that adds
// them up, and a check of it.
//
// What always holds: the same numbers make the same events, and a projection that passes the check holds each event exactly once.
package ledger
