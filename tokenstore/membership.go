package tokenstore

import "context"

// Permits is a semaphore that the workers of a store share. A member holds one permit at most. The
// store takes a permit back when its holder's connection ends. One goroutine uses it.
type Permits interface {
	// Acquire acquires a permit if one is free. The caller holds none.
	Acquire(ctx context.Context) (bool, error)

	// Release gives the permit back. After an error the store takes it back by itself.
	Release(ctx context.Context) error

	// Close ends what is kept open for the next Acquire, and releases the permit.
	Close() error
}
