package web

import (
	"slices"
	"testing"

	"attendant/imagebuilder"
)

// Default packages leave and come back with what is chosen; what the person
// left out stays out.
func TestMakeRoom(t *testing.T) {
	tests := []struct {
		name           string
		base, remove   []string // of the form
		chosen, server string   // what is chosen now, and what the server leaves out for it
		want           []string
	}{
		{"another is chosen", []string{"luci"}, nil, "ssl-open", "ssl-mbed", []string{"ssl-mbed"}},
		{"chosen still", []string{"luci", "ssl-open"}, []string{"ssl-mbed"}, "ssl-open", "ssl-mbed", []string{"ssl-mbed"}},
		{"the default again", []string{"luci", "ssl-open"}, []string{"ssl-mbed", "ppp"}, "ssl-mbed", "", []string{"ppp"}},
		{"left out by the person", []string{"luci"}, []string{"ssl-mbed", "ppp"}, "ssl-mbed", "", []string{"ssl-mbed", "ppp"}},
		{"left out by the router", []string{"luci"}, nil, "ssl-mbed", "dropbear", nil},
	}
	for _, tt := range tests {
		s := selection{Base: tt.base, Remove: slices.Clone(tt.remove)}
		s.makeRoom(imagebuilder.Choices{"ssl-wolf": {
			Chosen: tt.chosen, Options: []imagebuilder.Option{{Name: "ssl-mbed"}, {Name: "ssl-open"}},
		}}, []string{tt.server})
		if !slices.Equal(s.Remove, tt.want) {
			t.Errorf("%s: %q is left out, want %q", tt.name, s.Remove, tt.want)
		}
	}
}
