#!/usr/bin/perl
# The driver of the Perl client: a JSON text on each line of standard input, and its answer on standard output.
use strict;
use warnings;
use JSON::PP ();
use MIME::Base64 ();

my $json = JSON::PP->new->utf8->allow_nonref;
my $true = JSON::PP::true();
my $false = JSON::PP::false();
require $ARGV[0];
$| = 1;

sub answer {
    my ($it) = @_;
    my $do = $it->{do};
    my ($limit) = defined $it->{limit} ? Limiter::parse($it->{limit}) : ();
    return [map { [Limiter::directory($_, 0), $_->{window} + 0] } Limiter::parse($it->{text})] if $do eq 'parse';
    if ($do eq 'look') {
        my ($free, $used, $next) = Limiter::look_at($limit, $it->{names}, $it->{now});
        return [$free, $used + 0, $next + 0];
    }
    return Limiter::taken($limit, @$it{qw(name now provisional)}) if $do eq 'taken';
    return Limiter::returned($limit, @$it{qw(name claim now)}) if $do eq 'returned';
    if ($do eq 'app_id') {
        my %variables = map { $_ => MIME::Base64::decode($it->{variables}{$_}) } keys %{ $it->{variables} };
        return Limiter::app_id(\%variables, $it->{key});
    }
    my @hit = @$it{qw(root limits app)};
    return Limiter::hit(@hit, $it->{newcomers})->{allowed} ? $true : $false if $do eq 'hit';
    my (@admitted, @denied);
    while ((my $begin = Limiter::clock()) < $it->{until} || !@denied) {
        my $is_allowed = Limiter::hit(@hit, '')->{allowed};
        push @{ $is_allowed ? \@admitted : \@denied }, [$begin + 0, Limiter::clock() + 0];
    }
    return [\@admitted, \@denied];
}

while (my $line = <STDIN>) {
    my $reply = eval { { is => answer($json->decode($line)) } };
    if (!$reply) {
        my $error = $@;
        die $error if !ref $error;
        $reply = ref $error eq 'Limiter::Mistake' ? { mistake => $error->message } : { errno => $error->symbol };
    }
    print $json->encode($reply), "\n";
}
