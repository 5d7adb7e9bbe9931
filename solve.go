package main

import (
	"context"

	"attendant/imagebuilder"
)

// exists tells what is in the index of a request's generation; nil where that
// is not certain.
func (c *catalogue) exists(ctx context.Context, r imagebuilder.Request, g imagebuilder.Generation) (func(string) bool, error) {
	t, err := c.upstream.Target(ctx, r.Version, r.Target)
	if err != nil || t.Generation.Digest != g.Digest {
		return nil, err
	}
	index, err := c.packages(ctx, t)
	if err != nil {
		return nil, err
	}
	return index.exists(), nil
}

// Impossible tells why no image can come of a request.
func (c *catalogue) Impossible(ctx context.Context, r imagebuilder.Request, g imagebuilder.Generation) *imagebuilder.Error {
	return nil
}
