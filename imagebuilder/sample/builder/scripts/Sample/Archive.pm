# Reads gzip and tar without anything outside perl-base. Streams that are
# only stored, as the sample's own packages are, need no other program.
package Sample::Archive;
use strict;
use warnings;
use Sample::Tree;

# gunzip unpacks the bytes of a gzip file; undef when they are damaged.
sub gunzip {
    my ($data) = @_;
    return if length($data) < 18 || substr($data, 0, 3) ne "\x1f\x8b\x08";
    my $flags = ord substr $data, 3, 1;
    my $at    = 10;
    return through_gzip($data) if $flags;
    my $out = '';
    while (1) {
        my $head = ord substr $data, $at, 1;
        return through_gzip($data) if $head & 6;    # not a stored block
        my ($length, $check) = unpack 'vv', substr $data, $at + 1, 4;
        return if !defined $check || $length != (~$check & 0xffff);
        return if $at + 5 + $length > length $data;
        $out .= substr $data, $at + 5, $length;
        $at += 5 + $length;
        last if $head & 1;
    }
    return $out;
}

sub through_gzip {
    my ($data) = @_;
    my $name = ($ENV{TOPDIR} // '.') . "/tmp/.gzip.$$";
    open(my $out, '>:raw', $name) or die "$name: $!\n";
    print $out $data;
    close $out;
    my $got = gunzip_file($name);
    unlink $name;
    return $got;
}

sub gunzip_file {
    my ($name) = @_;
    open(my $from, '-|:raw', 'gzip', '-dcf', '--', $name) or die "gzip: $!\n";
    local $/;
    my $got = <$from>;
    close $from or return;
    return $got;
}

# gunzip_files unpacks several files with one process: the size of each stands
# at its end. Where that does not work out each has a process of its own.
sub gunzip_files {
    my @names = @_;
    return if !@names;
    my @sizes = map { my $data = Sample::Tree::read_file($_) // ''; length $data < 18 ? 0 : unpack 'V', substr $data, -4 } @names;
    open(my $from, '-|:raw', 'gzip', '-dcf', '--', @names) or die "gzip: $!\n";
    my $all = do { local $/; <$from> };
    my ($good, $at, @texts) = (close($from), 0);
    for (@sizes) {
        push @texts, $at + $_ <= length $all ? substr $all, $at, $_ : undef;
        $at += $_;
    }
    return $good && $at == length $all ? @texts : map { scalar gunzip_file($_) } @names;
}

# store makes a gzip file without compressing; sum and size for its end come
# from gzip's own output.
sub store {
    my ($data, $name) = @_;
    open(my $from, '-|:raw', 'gzip', '-n', '-1', '-c', '--', $name) or die "gzip: $!\n";
    my $end = '';
    while (read $from, my $part, 65536) { $end = substr $end . $part, -8 }
    close $from or die "gzip failed\n";
    my ($out, $at) = ("\x1f\x8b\x08\0\0\0\0\0\0\xff", 0);
    do {
        my $part = substr $data, $at, 65535;
        $at += length $part;
        $out .= pack('Cvv', ($at >= length $data ? 1 : 0), length $part, ~length($part) & 0xffff) . $part;
    } while ($at < length $data);
    return $out . $end;
}

# untar returns the members of a tar as hashes of name, type, mode, link, data.
sub untar {
    my ($tar) = @_;
    my ($at, @members, $long_name, $long_link) = (0);
    while ($at + 512 <= length $tar) {
        my ($name, $mode, $size, $type, $link, $prefix) =
            unpack 'Z100 A8 x16 A12 x20 a1 Z100 x88 Z155', substr $tar, $at, 512;
        last if $name eq '';
        $at += 512;
        $size = oct($size =~ /([0-7]+)/ ? $1 : 0);
        my $data = substr $tar, $at, $size;
        $at += ($size + 511) & ~511;
        $data =~ s/\0.*//s, $long_name = $data, next if $type eq 'L';
        $data =~ s/\0.*//s, $long_link = $data, next if $type eq 'K';
        next if $type eq 'x' || $type eq 'g';
        $name = "$prefix/$name" if $prefix ne '' && !defined $long_name;
        push @members, {
            name => $long_name // $name,
            type => $type eq "\0" ? '0' : $type,
            mode => oct($mode =~ /([0-7]+)/ ? $1 : 0) & 0777,
            link => $long_link // $link,
            data => $data,
        };
        undef $long_name;
        undef $long_link;
    }
    return @members;
}

# base64 decodes one line.
sub base64 {
    my ($text) = @_;
    $text =~ tr{A-Za-z0-9+/}{}cd;
    $text =~ tr{A-Za-z0-9+/}{ -_};
    return join '', map { unpack 'u', chr(32 + int(length($_) * 3 / 4)) . $_ } $text =~ /(.{1,60})/gs;
}

# clean_name is a member's name below the root, or undef when it leaves it.
sub clean_name {
    my ($name) = @_;
    my @parts = grep { $_ ne '' && $_ ne '.' } split m{/}, $name;
    return if grep { $_ eq '..' } @parts;
    return join '/', @parts;
}

1;
