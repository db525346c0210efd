// Package segment divides the hash space of sequence keys among the segments of a processing group. It is pure: no
// I/O, no clock, no randomness, and it imports nothing of Sluice.
//
// What must always hold, and who guarantees it:
//
//   - The segments of a group are a partition: every hash lies in exactly one of them. [Layout] returns partitions,
//     and every [Step] of [Next] turns one partition into another, so nobody who only uses these two can break it.
//     [Partition] proves it for segments that come from elsewhere.
//   - Equal keys have equal hashes, in every process, on every architecture and in the database. [PG1] and [Java] are
//     fixed for ever; a runtime compares [Vectors] with its server when it connects and refuses to run otherwise.
//   - The sequence key of an event is a function of the event and its group's [Sequencing] alone. Text forms of sequencings are
//     in stores and never change their meaning.
//   - A segment is named by its id for as long as it lives. A split leaves the id to the low half, a merge keeps the
//     low half's id; the masks tell whether two segments with one id are the same.
//
// Ids and masks follow Axon Framework's arithmetic (a segment is all hashes with hash & mask == id), so that tokens
// which were written there keep their meaning.
package segment
