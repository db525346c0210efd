// Package lab is what the benches have in common: a PostgreSQL of their own, a processor in their own process, what runs cost
// in CPU time and memory, and medians with their spread.
//
// What always holds: the server syncs what it commits (fsync and synchronous_commit are on), and what it is set to is printed
// with the figures.
package lab
