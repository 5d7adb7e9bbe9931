# Reads apk v3 files: indexes and packages.
package Sample::Adb;
use strict;
use warnings;
use Sample::Archive;
use Sample::Tree;

# blocks returns the blocks of a file as [type, payload]; none when damaged.
sub blocks {
    my ($data, $schema) = @_;
    my $magic = substr $data, 0, 4;
    if ($magic eq 'ADBd') { $data = inflate(substr $data, 4) // return }
    elsif ($magic ne 'ADB.') { return }
    return if length $data < 8 || substr($data, 4, 4) ne $schema;
    my ($at, @blocks) = (8);
    while ($at + 4 <= length $data) {
        my $word = unpack 'V', substr $data, $at, 4;
        my ($type, $size) = ($word >> 30, $word & 0x3fffffff);
        return if $type == 3 || $size < 4 || $at + $size > length $data;
        push @blocks, [ $type, substr $data, $at + 4, $size - 4 ];
        $at += ($size + 7) & ~7;
    }
    return @blocks && $blocks[0][0] == 0 && length $blocks[0][1] >= 8 ? @blocks : ();
}

# inflate unpacks a bare deflate stream: gzip does it when given a header, and
# complains about what is missing at the end only after writing everything.
sub inflate {
    my ($data) = @_;
    my $name = ($ENV{TOPDIR} // '.') . "/tmp/.deflated.$$";
    open(my $out, '>:raw', $name) or die "$name: $!\n";
    print $out "\x1f\x8b\x08\0\0\0\0\0\0\xff", $data;
    close $out;
    open(my $from, '-|:raw', 'sh', '-c', 'exec gzip -dc "$0" 2>/dev/null', $name) or die "gzip: $!\n";
    my $got = do { local $/; <$from> };
    close $from;
    unlink $name;
    return length($got // '') ? $got : undef;
}

# value reads one value of a container: a string, a number, a list or undef.
sub value {
    my ($adb, $value, $depth) = @_;
    die "damaged\n" if ($depth // 0) > 16;
    my ($type, $at) = ($value >> 28, $value & 0x0fffffff);
    return undef if $type == 0;
    return $at   if $type == 1;
    return unpack 'V', substr $adb, $at, 4 if $type == 2;
    return unpack 'C/a', substr $adb, $at, 256 if $type == 8;
    return unpack 'v/a', substr $adb, $at, 65537 if $type == 9;
    return unpack 'V/a', substr $adb, $at if $type == 10;
    die "damaged\n" if ($type != 13 && $type != 14) || $at + 4 > length $adb;
    my $count = unpack 'V', substr $adb, $at, 4;
    die "damaged\n" if $count < 1 || $at + 4 * $count > length $adb;
    return [ map { value($adb, $_, ($depth // 0) + 1) } unpack 'V*', substr $adb, $at + 4, 4 * ($count - 1) ];
}

sub root { my ($adb) = @_; my $root = eval { value($adb, unpack 'V', substr $adb, 4, 4) }; return $root }

# package_of turns the fields of a package's description into a hash.
sub package_of {
    my ($info) = @_;
    my %p = (name => $info->[0], version => $info->[1], hash => $info->[2] // '', arch => $info->[4], installed => $info->[11] // 0,
        size => $info->[12] // 0, priority => $info->[13] // 0);
    $p{depends}  = [ map { relation($_) } @{ $info->[14] // [] } ];
    $p{provides} = [ map { relation($_) } @{ $info->[15] // [] } ];
    for (@{ $info->[20] // [] }) { $p{abi} = $1 if /^openwrt:abiversion=(.+)/ }
    return \%p;
}

# relation: match is a set of 1 equal, 2 less, 4 greater, and 16 for conflict.
sub relation {
    my ($r) = @_;
    return { name => $r->[0], version => $r->[1], match => $r->[2] // (defined $r->[1] ? 1 : 7) };
}

# read_index reads a packages.adb; its second value are the signers' ids in hex.
sub read_index {
    my ($data) = @_;
    my @blocks = blocks($data, 'indx') or return;
    my $root = root($blocks[0][1]) or return;
    my @signers = map { unpack 'H32', substr $_->[1], 2, 16 } grep { $_->[0] == 1 && length $_->[1] > 18 } @blocks;
    return ([ map { package_of($_) } @{ $root->[1] // [] } ], \@signers);
}

# open_apk reads a package: description, files, script, container.
sub open_apk {
    my ($data) = @_;
    my @blocks = blocks($data, 'pckg') or return;
    my $root = root($blocks[0][1]) or return;
    my (%data, @files);
    for (@blocks) {
        my ($type, $payload) = @$_;
        next if $type != 2 || length $payload < 8;
        my ($dir, $file) = unpack 'VV', $payload;
        $data{"$dir/$file"} = substr $payload, 8;
    }
    my $i = 0;
    for my $dir (@{ $root->[1] // [] }) {
        $i++;
        my $folder = $dir->[0] // '';
        push @files, { name => $folder, type => '5', mode => $dir->[1][0] // 0755 } if $folder ne '';
        my $j = 0;
        for my $file (@{ $dir->[2] // [] }) {
            $j++;
            my %member = (name => ($folder eq '' ? '' : "$folder/") . $file->[0], type => '0', mode => ($file->[1][0] // 0644) & 0777, data => $data{"$i/$j"} // '');
            if (defined $file->[5]) { @member{qw(type link)} = ('2', substr $file->[5], 2) }
            elsif (length $member{data} != ($file->[2] // 0)) { return }
            push @files, \%member;
        }
    }
    return { info => package_of($root->[0]), files => \@files, postinst => $root->[2] ? $root->[2][2] : undef, container => $blocks[0][1] };
}

1;
