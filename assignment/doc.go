// Package assignment decides which worker should own which segment. [Plan] is a pure function of the members, the
// segments with their present owners, and a policy: no I/O, no clock, no randomness, so that the operator and, while
// there is none, a worker come to the same plan.
//
// A segment weighs its share of the hash space, 1/(mask+1). A *taker* is a member that may be given segments: one that
// is active or, up to one segment a group, on probation. The package guarantees of every plan:
//
//   - Complete: each segment has exactly one target, and is without a worker only if no taker has room for it.
//   - Sticky: what no rule below moves stays where it is. A plan applied is a fixpoint: planning again moves nothing.
//   - Even in each group: no single move of a segment between takers would leave both with less than the larger of
//     the two has now. With equal segments all counts are within one of each other.
//   - Even over all groups: of the assignments that are even in each group, one in which no single move makes the totals
//     of two takers more even. With equal segments the totals, too, are within one of each other.
//   - Fewest moves: with segments of one size no assignment that is even in both senses moves fewer. With several
//     sizes (a number of segments that is not a power of two, or groups that differ) moves are few, not provably
//     fewest: trying all assignments of a few segments finds, now and then, one that moves one or two fewer.
//   - The order of the arguments does not matter; ties go to the lower id.
//   - Pinned segments stay with an active owner, whatever else that makes uneven. An old member keeps none once a member of
//     the wanted definition is active: it is about to end, and could not be emptied before.
//
// While members of the wanted definition and older ones are there together (a rollout), evenness gives way to moving
// each segment only once. A new member is filled up to its fair share among Policy.Replicas members: from segments that
// nobody owns, then by taking over the emptiest old member as a whole, so that this one can be removed. An old member
// gains only what nobody owns and no new member has room for. New members are evened out among each other when the old
// ones hold nothing any more.
//
// # Where it comes from
//
// That a central planner computes a target and keeps what it can, is what the assignors of Kafka's KIP-848 do. That
// counts are the mean rounded down or up, with the larger ones for those who have most, so that scaling by one moves
// the least, is the idea of sticky balancers; franz-go's finds chains of moves by searching a graph of who could give
// to whom. Here this search is the cancelling of negative cycles in a minimum-cost flow (Klein 1967), exact where
// segments are equal; the file cancel.go says why. Draining the emptiest old member first, and as a whole, is what lets
// a rolling update move each segment once; filling new members from the fullest moves some several times.
package assignment
