// Package protocol is what keeps tokens right, as pure functions: what every operation of a store makes of the tokens of a
// group, and what a worker may believe of a token that it has claimed. The stores carry it out (in PostgreSQL, claims and the
// fence are SQL, which the conformance suite holds against this package), workers decide by it, and the explorer in this package's
// tests walks through all interleavings of a small world of it.
//
// What must always hold, and is checked there:
//   - An event is applied once in a generation, in the order of its key, and told a replay if and only if it was handled before
//     the reset.
//   - Of one epoch's writes, all are by one worker, each on the version that the one before it left.
//   - Epoch and version of a segment never go back.
//   - The tokens of a group cover the hash space exactly once.
//
// Why an owner, or its epoch, is not enough for the fence: a worker that lost its connection in a commit, and reads the token
// before that commit has come through, would do the same again under the same epoch. The version has moved by then.
package protocol
