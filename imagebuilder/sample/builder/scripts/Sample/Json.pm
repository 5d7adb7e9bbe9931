# As much JSON as profiles.json needs: objects, lists, strings and integers.
package Sample::Json;
use strict;
use warnings;

my %escape = ("\n" => 'n', "\r" => 'r', "\t" => 't', '"' => '"', '\\' => '\\');

sub quote {
    my ($text) = @_;
    $text =~ s{(["\\\n\r\t])}{\\$escape{$1}}g;
    $text =~ s{([\x00-\x1f])}{sprintf '\\u%04x', ord $1}ge;
    return qq("$text");
}

# encode writes without line breaks and with sorted keys; a reference to a
# scalar is a number.
sub encode {
    my ($value) = @_;
    my $kind = ref $value;
    return '[' . join(',', map { encode($_) } @$value) . ']' if $kind eq 'ARRAY';
    return '{' . join(',', map { quote($_) . ':' . encode($value->{$_}) } sort keys %$value) . '}' if $kind eq 'HASH';
    return $$value if $kind eq 'SCALAR';
    return quote($value);
}

# decode is the opposite; undef when the text is no JSON of this kind.
sub decode {
    my ($text) = @_;
    my $value = eval { parse(\$text) };
    return $@ ? undef : $value;
}

sub parse {
    my ($text) = @_;
    $$text =~ /\G\s+/gc;
    if ($$text =~ /\G\{/gc) {
        my %object;
        until ($$text =~ /\G\s*\}/gc) {
            $$text =~ /\G\s*,/gc;
            my $key = parse($text);
            $$text =~ /\G\s*:/gc or die "no colon\n";
            $object{$key} = parse($text);
        }
        return \%object;
    }
    if ($$text =~ /\G\[/gc) {
        my @list;
        until ($$text =~ /\G\s*\]/gc) {
            $$text =~ /\G\s*,/gc;
            push @list, parse($text);
        }
        return \@list;
    }
    if ($$text =~ /\G"((?:[^"\\]|\\.)*)"/gcs) {
        my $string = $1;
        my %plain = (n => "\n", r => "\r", t => "\t", b => "\b", f => "\f");
        $string =~ s{\\(?:u([0-9a-fA-F]{4})|(.))}{defined $1 ? chr hex $1 : $plain{$2} // $2}ge;
        return $string;
    }
    if ($$text =~ /\G(-?[0-9][0-9.eE+-]*|true|false|null)/gc) { my $number = $1; return \$number }
    die "no JSON\n";
}

1;
