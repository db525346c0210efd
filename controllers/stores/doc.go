// Package stores keeps the operator's connections to the databases of processors, declares processors there, and runs
// their planner.
//
// There is one session a store (a namespace and a connection), shared by its processors: a pool of at most four
// connections and one that listens. Each processor has a loop of its own that plans once a second, and at once when
// something has changed.
//
// What always holds:
//   - The store is an accelerator, never a need: nothing here blocks a reconcile, and what fails is tried again for as
//     long as somebody wants the processor, with pauses of at most MaxPause.
//   - An outage of a source in a database of its own is no problem of the store. It delays no plan:
//     whatever asks the source runs beside the processor's loop.
//   - Nothing is written to a store that is not the one the processor belongs to.
//   - Whoever can write a Secret cannot make the operator dial itself, its node or the cloud's metadata service, nor read
//     the operator's files.
package stores
