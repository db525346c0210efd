package worker

import "time"

// Age makes the worker's process older.
func (w *Worker) Age(by time.Duration) { w.born = w.born.Add(-by) }

// Hang has the control loop run, without a turn so far.
func (w *Worker) Hang() { w.waits.Store(false) }

// Turn has the control loop turn once.
func (w *Worker) Turn() { w.turns() }
