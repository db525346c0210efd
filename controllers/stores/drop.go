package stores

import "context"

// drop deletes the processor's rows, over the session that is open: its Secret may be gone by now. There is nothing to do in
// a store that is not the processor's.
func (p *processor) drop(ctx context.Context, l *link, w Wanted) error {
	if p.observation().Dropped {
		return nil
	}
	meta, err := l.Meta(ctx)
	if err != nil {
		return err
	}
	owner := p.options.ownerOf(w)
	if meta.StoreID == w.StoreID && !meta.Elsewhere {
		if err := l.store.Drop(ctx, owner); err != nil {
			return err
		}
		if err := l.directory.RemoveProcessor(ctx, owner); err != nil {
			return err
		}
	}
	p.publish(Observation{StoreID: w.StoreID, Dropped: true}, nil)
	return nil
}
