// Package controllers is Sluice's operator: it makes an EventProcessor's objects, has its segments planned, and says in
// status how it is.
//
// A reconcile observes, decides, applies and reports. What always holds:
//   - Decisions (decide.go, rollout.go, status_*.go) are pure functions over what was observed; only the files observe.go,
//     apply.go, delete.go and report.go talk to the API server.
//   - Status is written in one place, at most once a reconcile; events come after it, so that none is repeated.
//   - Objects that exist and do not belong to the processor are left alone.
//   - No reconcile waits for a store, but for the deletion that was asked to drop rows, and that is bounded.
package controllers
