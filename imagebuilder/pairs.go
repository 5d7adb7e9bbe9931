package imagebuilder

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// Pair is one member of a JSON object whose members are all strings.
type Pair struct {
	Name  string
	Value string
}

// Pairs is a JSON object of strings that remembers the order in which its
// members came. The order of packages_versions is the order of PACKAGES= in
// the build command, and the order of repositories is that of the feeds.
type Pairs []Pair

// Names returns the member names in order.
func (p Pairs) Names() []string {
	names := make([]string, len(p))
	for i, pair := range p {
		names[i] = pair.Name
	}
	return names
}

// MarshalJSON writes an object; nil is {}.
func (p Pairs) MarshalJSON() ([]byte, error) {
	var buf bytes.Buffer
	buf.WriteByte('{')
	for i, pair := range p {
		if i > 0 {
			buf.WriteByte(',')
		}
		name, err := json.Marshal(pair.Name)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(pair.Value)
		if err != nil {
			return nil, err
		}
		buf.Write(name)
		buf.WriteByte(':')
		buf.Write(value)
	}
	buf.WriteByte('}')
	return buf.Bytes(), nil
}

// UnmarshalJSON reads an object of strings. Of members with one name the last
// value counts, at the place of the first.
func (p *Pairs) UnmarshalJSON(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	token, err := dec.Token()
	if err != nil {
		return err
	}
	if token == nil {
		*p = nil
		return nil
	}
	if token != json.Delim('{') {
		return fmt.Errorf("expected an object of strings")
	}
	pairs := Pairs{}
	at := map[string]int{}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return err
		}
		name := key.(string)
		var value *string
		if err := dec.Decode(&value); err != nil || value == nil {
			return fmt.Errorf("the value of %.100q is not a string", name)
		}
		if i, seen := at[name]; seen {
			pairs[i].Value = *value
			continue
		}
		at[name] = len(pairs)
		pairs = append(pairs, Pair{Name: name, Value: *value})
	}
	if _, err := dec.Token(); err != nil {
		return err
	}
	*p = pairs
	return nil
}
