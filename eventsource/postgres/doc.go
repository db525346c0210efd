// Package postgres is Sluice's own event table: it appends events to streams, and reads them as an eventsource.Source.
//
// Positions are taken in one order and become visible in another. A reader therefore keeps, beside the position that it
// has reached, the snapshot of the statement that took it there: an event has been given if its position is not above
// that one and its transaction is visible in that snapshot. An event that appears late is found by its transaction.
//
// What must always hold, and who guarantees it:
//
//   - Each page is one statement on the primary, so that its rows are exactly those that its snapshot sees. The statement
//     says itself on which server it ran; a page from a standby is refused.
//   - After a page that ends at position p, every event up to p that the page's snapshot sees has been given. [Source.Read]
//     leaves none out, and a coverage grows by nothing else.
//   - The snapshots of a coverage contain one another, because statements of one server are ordered by what they see.
//   - txid is the top-level transaction of the insert, and neither it nor the position comes from a client: the table's
//     definition and column privileges see to that.
//
// Nothing is assumed about how positions are given out, and nothing rests on time. Order within a stream needs one thing more, which
// append guarantees: an event takes its position after its predecessor became visible to its writer.
//
// A coverage must not outlive the server's memory: a server that crashes may give the number of a transaction that left
// nothing on disk to another one. What was stored in this server is safe, since it was written after all that it speaks
// of. So whoever loses a connection starts again from stored progress, not from coverages in memory.
package postgres
