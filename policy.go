package main

import (
	"slices"
	"strings"

	"attendant/imagebuilder"
	"attendant/imagebuilder/upstream"
)

// Policy is the operator's word on which releases there are for whom.
type Policy struct {
	Community string   `json:"community,omitempty"` // whose upgrade checks it is for; "" everyone's, and what is offered at all
	Distro    string   `json:"distro,omitempty"`    // "" is every distribution
	Offer     []string `json:"offer,omitempty"`     // releases, or branches for all of theirs; empty is all
	HoldBack  []string `json:"hold_back,omitempty"` // releases, or branches, that no upgrade check recommends
	Minimum   string   `json:"minimum,omitempty"`   // releases below are not offered; routers below it should upgrade
	Newest    string   `json:"newest,omitempty"`    // releases above are not offered
}

// namesVersion tells whether a list of releases and branches means version.
func namesVersion(list []string, version string) bool {
	return slices.Contains(list, version) ||
		slices.Contains(list, imagebuilder.Branch(version)) && !strings.HasSuffix(version, "-SNAPSHOT")
}

// offers tells whether images of version are offered.
func (p *Policy) offers(version string) bool {
	return (len(p.Offer) == 0 || namesVersion(p.Offer, version)) && !p.below(version) &&
		(p.Newest == "" || upstream.CompareVersions(version, p.Newest) <= 0)
}

// below tells whether version is older than the operator wants.
func (p *Policy) below(version string) bool {
	return p.Minimum != "" && upstream.CompareVersions(version, p.Minimum) < 0
}

// recommends tells whether an upgrade check may lead to version.
func (p *Policy) recommends(version string) bool {
	return p.offers(version) && !namesVersion(p.HoldBack, version)
}

// policies are those of one distribution; the first for a community counts.
type policies []Policy

func policiesFor(all []Policy, distro string) policies {
	var own policies
	for _, p := range all {
		if p.Distro == "" || p.Distro == distro {
			own = append(own, p)
		}
	}
	return own
}

// of returns the policy for a community; one without its own has the general
// one.
func (ps policies) of(community string) *Policy {
	for i := range ps {
		if ps[i].Community == community {
			return &ps[i]
		}
	}
	if community != "" {
		return ps.of("")
	}
	return &Policy{}
}
