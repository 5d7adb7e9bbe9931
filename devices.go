package main

import (
	"context"

	"attendant/imagebuilder"
	"attendant/server"
)

// Devices searches the devices of the releases that the operator's policy
// offers.
func (c *catalogue) Devices(ctx context.Context, q server.DeviceQuery) (*server.DeviceList, error) {
	policy := c.policies.of("")
	if q.Version != "" && !policy.offers(q.Version) {
		return nil, notOffered(q.Version)
	}
	known, err := c.upstream.Devices(ctx, q.Version)
	if err != nil {
		return nil, err
	}
	total, found := known.Search(q.Text, q.Target, policy.offers, q.Offset, q.Limit)
	list := &server.DeviceList{Total: total, Offset: q.Offset, Devices: make([]server.Device, len(found))}
	for i, d := range found {
		list.Devices[i] = server.Device{
			Title: d.Title(), Titles: append([]imagebuilder.Title{}, d.Titles...), Profile: d.Profile, Target: d.Target,
			Aliases: append([]string{}, d.Aliases...), Versions: d.Versions,
		}
	}
	return list, nil
}

// Locate finds a device in a release, where its target may be called otherwise.
func (c *catalogue) Locate(ctx context.Context, version, target string, names ...string) (*server.Location, error) {
	if !c.policies.of("").offers(version) {
		return nil, notOffered(version)
	}
	found, err := c.upstream.Locate(ctx, version, target, names...)
	if err != nil {
		return nil, err
	}
	location := server.Location(*found)
	return &location, nil
}

func notOffered(version string) error {
	return imagebuilder.Errorf(imagebuilder.CodeUnsupportedVersion, "Unsupported branch: %s", version)
}
