// RUN: qvit-opt %s --lower-requant=partial --report %t.json 2> %t.txt | filecheck %s
// RUN: filecheck %s --input-file %t.json --check-prefix=JSON
// RUN: filecheck %s --input-file %t.txt --check-prefix=TABLE
// RUN: not qvit-opt %s --lower-requant -o %t.mlir 2> %t.err
// RUN: filecheck %s --input-file %t.err --check-prefix=ERROR
// RUN: not cat %t.mlir
// RUN: qvit-opt %s --lower-requant=form=pot,partial 2> %t.pot | filecheck %s --check-prefix=POT
// RUN: filecheck %s --input-file %t.pot --check-prefix=WHY
// RUN: qvit-opt %s --lower-requant=rounding=half_away,fixed32 --allow-bounded | filecheck %s --check-prefix=FIXED

// Real factors become multipliers and shifts, each proven to give the same codes, or bounded, which needs permission.

// 31 bits; no operand ties.
func.func @exact(%x: tensor<4x2xi32>) -> tensor<4x2xi8> {
  %y = qvit.requantize %x by #qvit.real<0.0234 * 0.00317 / 0.0517> zero_point <3> {qvit.src = ["exact"]} : tensor<4x2xi32> -> tensor<4x2xi8>
  func.return %y : tensor<4x2xi8>
}
// CHECK-LABEL: @exact
// CHECK-NEXT:    qvit.requantize %{{.*}} by #qvit.dyadic<1577554541, 40> zero_point <3> rounding half_up {qvit.src = ["exact"]} : tensor<4x2xi32> -> tensor<4x2xi8>
// POT-LABEL:   @exact
// POT-NEXT:      by #qvit.real<0.0234 * 0.00317 / 0.0517>
// FIXED-LABEL: @exact
// FIXED-NEXT:    by #qvit.dyadic<6162322, 32> zero_point <3> rounding half_away

// A shift for each channel; negative factors; 0.
func.func @channels(%x: tensor<4x3xi32>) -> tensor<4x3xi8> {
  %y = qvit.requantize %x by #qvit.real<[0.0234, -0.3, 0.0] / 0.7> axis 1 {qvit.src = ["channels"]} : tensor<4x3xi32> -> tensor<4x3xi8>
  func.return %y : tensor<4x3xi8>
}
// CHECK-LABEL: @channels
// CHECK-NEXT:    by #qvit.dyadic<[1148596957, -1840700374, 0], [35, 32, 0]> axis 1 rounding half_up
// FIXED-LABEL: @channels
// FIXED-NEXT:    by #qvit.dyadic<[143574620, -1840700374, 0], 32> axis 1 rounding half_away

// Powers of two are shifts, bit-exactly, under whatever form they come. Operands tie: the rounding stays.
func.func @pot(%x: tensor<4x2xi32>) -> tensor<4x2xi8> {
  %y = qvit.requantize %x by #qvit.real<0.5 / 4.0> {qvit.src = ["pot"]} : tensor<4x2xi32> -> tensor<4x2xi32>
  %z = qvit.requantize %y by #qvit.dyadic<[4, 1], [3, 2]> axis 1 {qvit.src = ["stored"]} : tensor<4x2xi32> -> tensor<4x2xi8>
  func.return %z : tensor<4x2xi8>
}
// CHECK-LABEL: @pot
// CHECK-NEXT:    by #qvit.pot<3> {qvit.src
// CHECK-NEXT:    by #qvit.pot<[1, 2]> axis 1 {qvit.src
// POT-LABEL:   @pot
// POT-NEXT:      by #qvit.pot<3> {qvit.src
// POT-NEXT:      by #qvit.pot<[1, 2]> axis 1 {qvit.src

// A floor is no rounding to nearest.
func.func @floor(%x: tensor<4xi8>) -> tensor<4xi8> {
  %y = qvit.requantize %x by #qvit.real<0.3 / 0.7> rounding floor : tensor<4xi8> -> tensor<4xi8>
  func.return %y : tensor<4xi8>
}
// CHECK-LABEL: @floor
// CHECK-NEXT:    by #qvit.dyadic<1840700374, 32> rounding floor

// 31 bits do not tell all 2^32 codes apart.
func.func @wide(%x: tensor<4xi32>) -> tensor<4xi32> {
  %y = qvit.requantize %x by #qvit.real<0.3 / 0.7> {qvit.src = ["wide"]} : tensor<4xi32> -> tensor<4xi32>
  func.return %y : tensor<4xi32>
}
// CHECK-LABEL: @wide
// CHECK-NEXT:    by #qvit.real<0.3 / 0.7>
// FIXED-LABEL: @wide
// FIXED-NEXT:    by #qvit.dyadic<1840700374, 32> {qvit.src = ["wide"]}

// Both terms at one shift; each rounded, at its own.
func.func @sums(%a: tensor<4xi8>, %b: tensor<4xi8>) -> (tensor<4xi8>, tensor<4xi8>, tensor<4xi8>) {
  %x = qvit.add_requant %a by #qvit.real<0.75>, %b by #qvit.real<0.125> {qvit.src = ["once"]} : (tensor<4xi8>, tensor<4xi8>) -> tensor<4xi8>
  %y = qvit.add_requant %a by #qvit.real<0.3 / 0.7>, %b by #qvit.real<0.5> round_each {qvit.src = ["each"]} : (tensor<4xi8>, tensor<4xi8>) -> tensor<4xi8>
  %z = qvit.add_requant %a by #qvit.real<2.0>, %b by #qvit.real<0.5> {qvit.src = ["shifts"]} : (tensor<4xi8>, tensor<4xi8>) -> tensor<4xi8>
  func.return %x, %y, %z : tensor<4xi8>, tensor<4xi8>, tensor<4xi8>
}
// CHECK-LABEL: @sums
// CHECK-NEXT:    by #qvit.dyadic<1610612736, 31>, %{{.*}} by #qvit.dyadic<268435456, 31> {qvit.src
// CHECK-NEXT:    by #qvit.dyadic<1840700374, 32>, %{{.*}} by #qvit.pot<1> round_each {qvit.src
// CHECK-NEXT:    by #qvit.pot<-1>, %{{.*}} by #qvit.pot<1> {qvit.src

// A divisor rounds a reciprocal.
func.func @divided(%x: tensor<4x2xi32>, %z: tensor<4x1xi32>) -> tensor<4x2xi8> {
  %y = qvit.requantize %x by #qvit.real<0.3 / 0.7> divided_by %z {qvit.src = ["divided"]} : (tensor<4x2xi32>, tensor<4x1xi32>) -> tensor<4x2xi8>
  func.return %y : tensor<4x2xi8>
}
// CHECK-LABEL: @divided
// CHECK-NEXT:    by #qvit.real<0.3 / 0.7> divided_by
// FIXED-LABEL: @divided
// FIXED-NEXT:    by #qvit.dyadic<1840700374, 32> divided_by

// JSON:      "counts": {
// JSON-NEXT:   "form": {
// JSON-NEXT:     "dyadic": 5,
// JSON-NEXT:     "pot": 3
// JSON:        "exactness": {
// JSON-NEXT:     "bit-exact": 8
// JSON:      "src": "channels",
// JSON-NEXT: "op": "qvit.requantize",
// JSON-NEXT: "form": "dyadic",
// JSON-NEXT: "exactness": "bit-exact",
// JSON-NEXT: "channels": 3,
// JSON-NEXT: "bounded": 0,
// JSON-NEXT: "bound": 0.0
// JSON:      "rounded": 2,
// JSON:      "left": [
// JSON:      "src": "wide",
// JSON:      "src": "divided",

// TABLE:      lower-requant
// TABLE-NEXT:   lowered 8
// TABLE-NEXT:     dyadic 5
// TABLE-NEXT:     pot 3
// TABLE-NEXT:     bit-exact 8
// TABLE-NEXT:   rounding changed 2
// TABLE-NEXT:   left 2
// TABLE-NEXT:     2 x dyadic, first wide: its multipliers are not proven to give the same codes in 1 of 1 channels: off by at most 0.102 before rounding (--allow-bounded takes them)

// ERROR:      qvit-opt: error: lower-requant: 2 operations keep their factors:
// ERROR-NEXT:   wide: its multipliers are not proven to give the same codes in 1 of 1 channels: off by at most 0.102 before rounding (--allow-bounded takes them)
// ERROR-NEXT:   divided: its multipliers are not proven to give the same codes in 1 of 1 channels: off by at most 1.54e-07 before rounding (--allow-bounded takes them)
// ERROR-NOT:  {{.}}

// WHY:      operations keep their factors:
// WHY-NEXT:   exact: its factor 0.00143478 is no power of two: it is 0.445 octaves below 2^-9
// WHY-NEXT:   channels: its factor 0.0334286 of channel 0 is no power of two: it is 0.0972 octaves above 2^-5 (3 of 3 channels)
